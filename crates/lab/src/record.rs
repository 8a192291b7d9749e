//! What a lab writes down about itself: enough to find it, to join it, and to remove it after a crash.

use std::{
    fs::{self, File},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{network::Wire, process::ProcessId};

/// Where every running lab has its slot: `<index>.json`, locked by its supervisor for as long as it lives.
const SLOTS: &str = "/run/kube-pet-lab";
/// The default parent of the labs' state folders. Not below `/run`: pet hosts have a `/run` of their own.
const STATE: &str = "/var/tmp/kube-pet-lab";
/// Each lab has a /24 of its own; more than this at once is a mistake.
const MOST_LABS: u8 = 64;

/// One lab, as others find it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabRecord {
    /// Unique among the labs that run.
    pub name: String,
    /// Unique among the labs that run: decides subnet and link names.
    pub index: u8,
    /// State folder: logs, keys, kubeconfig, machines.
    pub dir: PathBuf,
    /// The process that owns the lab.
    pub supervisor: ProcessId,
    /// Where the logs go when the lab ends; with none they go with the rest.
    pub keep_logs: Option<PathBuf>,
    /// The control plane in use when it is not the lab's own.
    pub foreign_kubeconfig: Option<PathBuf>,
}

impl LabRecord {
    /// The lab's network.
    pub fn wire(&self) -> Wire {
        Wire::new(self.index)
    }
    /// The kubeconfig of the cluster's administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.foreign_kubeconfig.clone().unwrap_or_else(|| self.dir.join("admin.conf"))
    }
    /// Folder of the certificates and keys.
    pub fn pki_dir(&self) -> PathBuf {
        self.dir.join("pki")
    }
    /// Folder of one machine.
    pub fn machine_dir(&self, name: &str) -> PathBuf {
        self.machines_dir().join(name)
    }
    /// Folder of all machines.
    pub fn machines_dir(&self) -> PathBuf {
        self.dir.join("machines")
    }
    /// One program's log.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs_dir().join(format!("{name}.log"))
    }
    /// Folder of all logs.
    pub fn logs_dir(&self) -> PathBuf {
        self.dir.join("logs")
    }
    /// Exists while the lab leaves serving-certificate requests unapproved.
    pub fn approval_switch(&self) -> PathBuf {
        self.dir.join("no-serving-approval")
    }
    /// The cgroup below which a pet keeps its pods, as a path below each hierarchy's root.
    pub fn cgroup(&self, pet: Option<&str>) -> String {
        match pet {
            Some(pet) => format!("/kube-pet-lab/{}/{pet}", self.name),
            None => format!("/kube-pet-lab/{}", self.name),
        }
    }
}

/// The default state folder of the lab `name`.
pub fn default_dir(name: &str) -> PathBuf {
    Path::new(STATE).join(name)
}

/// A lab's slot, held by its supervisor: the lock ends with the process, however it ends.
#[derive(Debug)]
pub struct Slot {
    file: File,
}

impl Slot {
    /// Takes a free slot and fills it with what `record` makes of its number. Records of dead labs are not free: clean up
    /// first.
    ///
    /// # Errors
    /// When a lab of this name runs already, or no slot is free.
    pub fn take(name: &str, record: impl FnOnce(u8) -> LabRecord) -> Result<(Self, LabRecord)> {
        fs::create_dir_all(SLOTS).with_context(|| format!("make {SLOTS}: is this root?"))?;
        let guard = File::create(Path::new(SLOTS).join("lock")).context("open the slots' lock")?;
        // Two labs that start at once must not both find the name free: held until the record is written.
        guard.lock().context("lock the slots")?;
        if let Some(other) = live()?.into_iter().find(|lab| lab.name == name) {
            bail!("a lab named {name} is running already, in {}: `lab down --name {name}` ends it", other.dir.display());
        }
        for index in 0..MOST_LABS {
            let mut file = open(index, true)?.context("slot file was just created")?;
            if file.try_lock().is_ok() && read(&mut file)?.is_none() {
                let record = record(index);
                let mut slot = Self { file };
                slot.write(&serde_json::to_string(&record)?)?;
                return Ok((slot, record));
            }
        }
        bail!("all {MOST_LABS} lab slots are taken: `lab list` shows them, `lab gc` removes dead ones")
    }

    /// Marks the slot free.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn clear(&mut self) -> Result<()> {
        self.write("")
    }

    fn write(&mut self, text: &str) -> Result<()> {
        self.file.set_len(0).context("empty the slot")?;
        self.file.rewind().context("rewind the slot")?;
        self.file.write_all(text.as_bytes()).context("write the slot")
    }
}

/// The labs whose supervisor lives.
///
/// # Errors
/// When a slot cannot be read.
pub fn live() -> Result<Vec<LabRecord>> {
    let mut found = Vec::new();
    for index in 0..MOST_LABS {
        if let Some(mut file) = open(index, false)?
            && file.try_lock_shared().is_err()
            && let Some(record) = read(&mut file)?
        {
            found.push(record);
        }
    }
    Ok(found)
}

/// The labs that died without cleaning up, each with its slot locked for the caller.
///
/// # Errors
/// When a slot cannot be read.
pub fn dead() -> Result<Vec<(LabRecord, Slot)>> {
    let mut found = Vec::new();
    for index in 0..MOST_LABS {
        if let Some(mut file) = open(index, false)?
            && file.try_lock().is_ok()
            && let Some(record) = read(&mut file)?
        {
            found.push((record, Slot { file }));
        }
    }
    Ok(found)
}

fn open(index: u8, create: bool) -> Result<Option<File>> {
    let path = Path::new(SLOTS).join(format!("{index}.json"));
    match File::options().read(true).write(true).create(create).truncate(false).open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("open {}", path.display())),
    }
}

fn read(file: &mut File) -> Result<Option<LabRecord>> {
    let mut text = String::new();
    file.rewind().context("rewind a slot")?;
    file.read_to_string(&mut text).context("read a slot")?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    // A record cut short by a crash names nothing that could be cleaned up; its lab had not made anything yet.
    Ok(serde_json::from_str(&text).ok())
}

/// Writes `value` as JSON to `path`, all or nothing.
///
/// # Errors
/// When the file cannot be written.
pub fn save<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, serde_json::to_vec_pretty(value)?).with_context(|| format!("write {}", temporary.display()))?;
    fs::rename(&temporary, path).with_context(|| format!("write {}", path.display()))
}

/// Reads JSON from `path`.
///
/// # Errors
/// When the file cannot be read or is not what it should be.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))
}
