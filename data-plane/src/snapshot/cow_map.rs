//! A hash map that shares what did not change with its clones.

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub struct CowMap<K, V>(std::marker::PhantomData<(K, V)>);
