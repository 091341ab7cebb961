//! A text that is kept in place if it is short, so that comparing it follows no pointer.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use hashbrown::Equivalent;

/// How many bytes are kept in place: a text is four words.
const SHORT_BYTES_MAX: usize = 30;

/// See the module documentation.
#[derive(Clone, Debug)]
pub(super) enum Text {
    Short { len: u8, bytes: [u8; SHORT_BYTES_MAX] },
    Long(Arc<str>),
}

impl Text {
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
            Self::Long(text) => text.as_bytes(),
        }
    }
}

impl From<&Arc<str>> for Text {
    #[allow(clippy::cast_possible_truncation, reason = "the length fits the array")]
    fn from(text: &Arc<str>) -> Self {
        let mut bytes = [0; SHORT_BYTES_MAX];
        match bytes.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text.as_bytes());
                Self::Short { len: text.len() as u8, bytes }
            }
            None => Self::Long(Arc::clone(text)),
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Text {}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.as_bytes());
    }
}

/// What a [`Text`] is asked for by.
pub(super) struct TextQuery<'a>(pub &'a str);

impl Hash for TextQuery<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0.as_bytes());
    }
}

impl Equivalent<Text> for TextQuery<'_> {
    #[inline]
    fn equivalent(&self, key: &Text) -> bool {
        self.0.as_bytes() == key.as_bytes()
    }
}
