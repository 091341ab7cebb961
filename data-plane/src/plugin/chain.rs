//! Which plugins see a request, and in which order: settled when a snapshot is compiled.
//!
//! For each type, the plugins come from the most specific place that has one of the type (a backend of a route, the rule,
//! the backend, the listener, the defaults), all of that place in the order of its list. A plugin that is off does nothing there, but
//! keeps the less specific ones away. The types run in the order of [`super::TYPES`].

use std::sync::Arc;

use hashbrown::HashMap;

use super::{Flow, Plugin, PluginRequest, PluginResponse};
use crate::fields::Fields;

/// The plugins of a request, in order of execution. Equal ones of a push share one memory; one that is empty has none.
#[derive(Clone, Debug, Default)]
pub struct Chain(Option<Arc<[Arc<Plugin>]>>);

/// Makes chains; those that are equal are made once.
#[derive(Debug, Default)]
pub struct Chains {
    made: HashMap<Vec<usize>, Chain>,
}

impl Chains {
    /// The chain of these places, from the most specific on.
    pub fn merge<'p>(&mut self, places: &[&'p [Arc<Plugin>]]) -> Chain {
        if places.iter().all(|place| place.is_empty()) {
            return Chain::EMPTY;
        }
        let mut chosen: Vec<&'p Arc<Plugin>> = Vec::new();
        for place in places {
            let types: Vec<usize> = chosen.iter().map(|plugin| plugin.order).collect();
            chosen.extend(place.iter().filter(|plugin| !types.contains(&plugin.order)));
        }
        chosen.retain(|plugin| plugin.enabled);
        if chosen.is_empty() {
            return Chain::EMPTY;
        }
        chosen.sort_by_key(|plugin| plugin.order);
        // They are alive as long as the chain that is kept under their addresses.
        let key = chosen.iter().map(|plugin| Arc::as_ptr(plugin).addr()).collect();
        let make = || Chain(Some(chosen.into_iter().cloned().collect()));
        self.made.entry(key).or_insert_with(make).clone()
    }
}

impl Chain {
    /// Nobody.
    pub const EMPTY: Self = Self(None);

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Those in it.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Plugin>> {
        self.0.as_deref().unwrap_or_default().iter()
    }

    /// The request phase. The first plugin that does not let the request go on ends it, and is told with what it says.
    pub async fn on_request(&self, request: &mut PluginRequest<'_>) -> Option<(&Plugin, Flow)> {
        for plugin in self.iter() {
            match plugin.on_request(request).await {
                Flow::Continue => {}
                flow => return Some((plugin, flow)),
            }
        }
        None
    }

    /// The response phase, in reverse. First the answer gets what the plugins set in the request phase.
    pub fn on_response(&self, response: &mut PluginResponse<'_>) {
        if self.is_empty() {
            return;
        }
        let answer = &response.facts.answer;
        if !answer.is_empty() {
            response.fields.retain(|name, _| answer.get(name).is_none());
            answer.iter().for_each(|(name, value)| response.fields.append(name, value));
        }
        for plugin in self.iter().rev() {
            plugin.on_response(response);
        }
    }

    /// The trailers of a request: whatever plugins decide about in the head is not said behind the body again.
    pub fn on_request_trailers(&self, trailers: &mut Fields) {
        self.iter().for_each(|plugin| plugin.on_request_trailers(trailers));
    }

    /// The same of a response.
    pub fn on_response_trailers(&self, trailers: &mut Fields) {
        self.iter().rev().for_each(|plugin| plugin.on_response_trailers(trailers));
    }
}
