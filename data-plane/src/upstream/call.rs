//! One try at one endpoint, as far as balancing and health are concerned.

use std::{cell::Cell, rc::Rc};

use tokio::time::Instant;

use super::{EndpointState, Upstreams, View};
use crate::health::{Member, Outcome};

/// Counts as a request under way at its endpoint until it is dropped, and tells the endpoint's health how it went.
#[derive(Debug)]
pub struct Call {
    view: Rc<View>,
    index: usize,
    begun: Instant,
    /// The sticky cookie that the client is to have, if it has another or none.
    pub cookie: Option<u32>,
    judged: Cell<bool>,
}

impl Call {
    pub(super) fn begin(view: &Rc<View>, index: usize, cookie: Option<u32>, now: Instant) -> Self {
        let call = Self { view: Rc::clone(view), index, begun: now, cookie, judged: Cell::new(false) };
        if let Some(member) = call.rival() {
            member.begin(&call.view.group);
        }
        call
    }

    /// Which of the backend's endpoints it is.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Connections to the endpoint.
    #[must_use]
    pub fn pool(&self) -> &Rc<EndpointState> {
        &self.view.seats[self.index].pool
    }

    /// The endpoint's shared state, if the backend has others to choose: an only endpoint is used whatever it does.
    fn rival(&self) -> Option<&Member> {
        (self.view.seats.len() > 1).then(|| &*self.view.seats[self.index].member)
    }

    /// The endpoint began an answer.
    pub fn answered(&self, status: u16, upstreams: &Upstreams) {
        let Some(member) = self.rival() else { return };
        let now = Instant::now();
        let latency = now.saturating_duration_since(self.begun);
        self.judge(member.answered(status, latency, upstreams.moment(now)), now, upstreams);
    }

    /// The endpoint gave no answer, and it is its fault.
    pub fn failed(&self, upstreams: &Upstreams) {
        let Some(member) = self.rival() else { return };
        let now = Instant::now();
        let latency = now.saturating_duration_since(self.begun);
        self.judge(member.failed(latency, upstreams.moment(now)), now, upstreams);
    }

    fn judge(&self, outcome: Outcome, now: Instant, upstreams: &Upstreams) {
        let (Some(terms), false) = (&self.view.outlier_detection, self.judged.replace(true)) else { return };
        let members = self.view.seats.iter().map(|seat| &*seat.member);
        self.view.seats[self.index].member.judge(outcome, terms, &self.view.group, members, upstreams.moment(now));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(member) = self.rival() {
            member.end(&self.view.group);
        }
    }
}
