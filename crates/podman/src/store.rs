//! Podman's storage, read from its own files: sizes without a call to the service, which walks all layers for them.
//!
//! The files are those of containers/storage, unchanged since Podman 1: `<driver>-containers/containers.json` says which layer a
//! container writes to, `<driver>-layers/layers.json` how large each layer is. They are replaced as a whole when they change, so
//! that a reader sees one state or another.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A storage folder (`graphRoot`).
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    driver: String,
}

#[derive(Deserialize)]
struct StoredContainer {
    id: String,
    #[serde(default)]
    layer: String,
}

#[derive(Deserialize)]
struct StoredLayer {
    #[serde(default, rename = "diff-size")]
    diff_size: i64,
}

impl Store {
    /// The storage at `root` with this driver (`overlay`), as `GET /info` names them.
    pub fn new(root: impl Into<PathBuf>, driver: impl Into<String>) -> Self {
        Self { root: root.into(), driver: driver.into() }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that each container's own files are in, by the container's ID: what it wrote, and nothing of its image. Empty for
    /// other drivers than `overlay`, which keep the two together.
    ///
    /// # Errors
    /// The list cannot be read or understood.
    pub fn writable_layers(&self) -> io::Result<HashMap<String, PathBuf>> {
        if self.driver != "overlay" {
            return Ok(HashMap::new());
        }
        let folder = self.root.join("overlay-containers");
        let mut found = HashMap::new();
        // Containers that need not survive a reboot have a list of their own since containers/storage 1.43.
        for name in ["containers.json", "volatile-containers.json"] {
            let containers: Vec<StoredContainer> = read(&folder.join(name))?;
            let layers = self.root.join("overlay");
            found.extend(containers.into_iter().map(|container| (container.id, layers.join(container.layer).join("diff"))));
        }
        Ok(found)
    }

    /// Bytes of all layers of images, each counted once.
    ///
    /// # Errors
    /// As above.
    pub fn image_bytes(&self) -> io::Result<u64> {
        let layers: Vec<StoredLayer> = read(&self.root.join(format!("{}-layers", self.driver)).join("layers.json"))?;
        Ok(layers.into_iter().filter_map(|layer| u64::try_from(layer.diff_size).ok()).fold(0, u64::saturating_add))
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<Vec<T>> {
    match fs::read(path) {
        Ok(bytes) if bytes.is_empty() => Ok(Vec::new()),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| io::Error::other(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_found_and_summed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path(), "overlay");
        assert!(store.writable_layers().unwrap().is_empty());
        assert_eq!(store.image_bytes().unwrap(), 0);
        for name in ["overlay-containers", "overlay-layers"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        // As Podman 4.3 writes them, shortened.
        fs::write(
            folder.path().join("overlay-containers/containers.json"),
            r#"[{"id":"c1","names":["k8s_a"],"image":"i1","layer":"l9","metadata":"{}","created":"2026-01-01T00:00:00Z","flags":{"ProcessLabel":""}}]"#,
        )
        .unwrap();
        fs::write(
            folder.path().join("overlay-layers/layers.json"),
            r#"[{"id":"l1","created":"2026-01-01T00:00:00Z","compressed-size":10,"diff-size":1000,"compression":2},
               {"id":"l2","parent":"l1","diff-size":24},{"id":"l9","parent":"l2","created":"2026-01-01T00:00:00Z"}]"#,
        )
        .unwrap();
        let layers = store.writable_layers().unwrap();
        assert_eq!(layers["c1"], folder.path().join("overlay/l9/diff"));
        assert_eq!(store.image_bytes().unwrap(), 1024);
        assert!(Store::new(folder.path(), "vfs").writable_layers().unwrap().is_empty());
        fs::write(folder.path().join("overlay-containers/containers.json"), "{").unwrap();
        let error = store.writable_layers().unwrap_err().to_string();
        assert!(error.contains("containers.json"), "{error}");
    }
}
