//! A pinned map with typed keys and values.

use std::{
    borrow::Borrow,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use bytemuck::Pod;

use super::{FastPathError, batch};

/// A type of `flannel-common` as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Raw<T>(pub(super) T);

// SAFETY: `bytemuck::Pod` promises what `aya::Pod` asks for: any bytes are a value, and there is no padding.
unsafe impl<T: Pod> aya::Pod for Raw<T> {}

/// Opens what is pinned at `path`.
fn pinned(name: &'static str, path: &Path) -> Result<MapData, FastPathError> {
    MapData::from_pin(path).map_err(|cause| match &cause {
        MapError::SyscallError(error) if error.io_error.kind() == std::io::ErrorKind::PermissionDenied => {
            FastPathError::Forbidden { path: path.to_owned() }
        }
        _ => failed("open", name, cause),
    })
}

pub(super) fn failed(what: &'static str, map: &'static str, cause: MapError) -> FastPathError {
    FastPathError::Map { what, map, cause: Box::new(cause) }
}

/// A hash, LRU or not.
pub(super) struct Hash<K: Pod, V: Pod> {
    name: &'static str,
    map: HashMap<MapData, Raw<K>, Raw<V>>,
    /// The same map.
    fd: OwnedFd,
}

impl<K: Pod, V: Pod> Hash<K, V> {
    pub(super) fn open(name: &'static str, path: &Path, lru: bool) -> Result<Self, FastPathError> {
        let data = pinned(name, path)?;
        Self::new(name, if lru { Map::LruHashMap(data) } else { Map::HashMap(data) })
    }

    pub(super) fn new(name: &'static str, map: Map) -> Result<Self, FastPathError> {
        let fd = match &map {
            Map::HashMap(data) | Map::LruHashMap(data) => data.fd().as_fd().try_clone_to_owned(),
            _ => Err(std::io::ErrorKind::InvalidInput.into()),
        };
        let fd = fd.map_err(|cause| failed("open", name, MapError::IoError(cause)))?;
        let map = HashMap::try_from(map).map_err(|cause| failed("open", name, cause))?;
        Ok(Self { name, map, fd })
    }

    pub(super) fn get(&self, key: K) -> Result<Option<V>, FastPathError> {
        match self.map.get(&Raw(key), 0) {
            Ok(value) => Ok(Some(value.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(cause) => Err(failed("read", self.name, cause)),
        }
    }

    pub(super) fn put(&mut self, key: K, value: V) -> Result<(), FastPathError> {
        self.map.insert(Raw(key), Raw(value), 0).map_err(|cause| failed("write to", self.name, cause))
    }

    /// Many at once; one outcome each.
    pub(super) fn put_all(&mut self, keys: &[K], values: &[V]) -> Vec<Result<(), FastPathError>> {
        let done = batch::put(self.fd.as_fd(), keys, values);
        // The others one by one, so that each has an answer of its own.
        let others = keys.iter().zip(values).skip(done);
        (0..done).map(|_| Ok(())).chain(others.map(|(key, value)| self.put(*key, *value))).collect()
    }

    /// Removing what is not there succeeds.
    pub(super) fn remove(&mut self, key: K) -> Result<(), FastPathError> {
        match self.map.remove(&Raw(key)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(failed("remove from", self.name, cause)),
        }
    }

    /// Tells all of it, many entries at a time.
    pub(super) fn each(&self, tell: impl FnMut(K, V)) -> Result<(), FastPathError> {
        batch::each(self.fd.as_fd(), tell).map_err(|cause| failed("read", self.name, MapError::IoError(cause)))
    }

    /// All of it, one by one, as far as others leave it alone meanwhile.
    pub(super) fn entries(&self) -> impl Iterator<Item = Result<(K, V), FastPathError>> + '_ {
        self.map.iter().map(|entry| match entry {
            Ok((key, value)) => Ok((key.0, value.0)),
            Err(cause) => Err(failed("read", self.name, cause)),
        })
    }
}

/// An array's only element.
pub(super) struct Single<V: Pod> {
    name: &'static str,
    map: Array<MapData, Raw<V>>,
}

impl<V: Pod> Single<V> {
    pub(super) fn open(name: &'static str, path: &Path) -> Result<Self, FastPathError> {
        Self::new(name, Map::Array(pinned(name, path)?))
    }

    pub(super) fn new(name: &'static str, map: Map) -> Result<Self, FastPathError> {
        let map = Array::try_from(map).map_err(|cause| failed("open", name, cause))?;
        Ok(Self { name, map })
    }

    pub(super) fn get(&self) -> Result<V, FastPathError> {
        self.map.get(&0, 0).map(|value| value.0).map_err(|cause| failed("read", self.name, cause))
    }

    pub(super) fn set(&mut self, value: V) -> Result<(), FastPathError> {
        self.map.set(0, Raw(value), 0).map_err(|cause| failed("write to", self.name, cause))
    }
}

/// The pinned per-CPU array of counts, summed up.
pub(super) fn pinned_sums(name: &'static str, path: &Path) -> Result<Vec<u64>, FastPathError> {
    let map =
        PerCpuArray::try_from(Map::PerCpuArray(pinned(name, path)?)).map_err(|cause| failed("open", name, cause))?;
    sums(name, &map)
}

/// A per-CPU array of counts, summed up.
pub(super) fn sums(
    name: &'static str,
    map: &PerCpuArray<impl Borrow<MapData>, u64>,
) -> Result<Vec<u64>, FastPathError> {
    let slots = map.iter().map(|slot| slot.map(|slot| slot.iter().sum()));
    slots.collect::<Result<_, _>>().map_err(|cause| failed("read", name, cause))
}
