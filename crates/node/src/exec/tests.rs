//! Commands by a program that the test puts in crun's place.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube_pet_testkit::podman::{Answer, Fake};
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use super::*;

/// A container whose process has the variable `GREETING`, and a crun that does what `script` says: `begin` tells the process's number,
/// `say` is an error in the log.
struct Machine {
    dir: tempfile::TempDir,
    program: PathBuf,
    fake: Fake,
    container: ContainerId,
}

impl Machine {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("crun/c1");
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("status"), json!({"pid": 1, "bundle": dir.path()}).to_string()).unwrap();
        fs::write(dir.path().join("config.json"), json!({"process": {"args": ["sleep"], "env": ["GREETING=hello"]}}).to_string()).unwrap();
        fs::write(dir.path().join("crun/script"), script).unwrap();
        let program = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src/exec/tests/runtime.sh"));
        Self { dir, program, fake: Fake::start(|path, _| panic!("Podman is asked: {path}")), container: ContainerId::new("c1") }
    }

    fn executor(&self) -> Executor {
        let podman = Client::new(self.fake.socket());
        let runtime = Runtime::of(self.program.clone(), podman.clone(), self.dir.path());
        Executor { podman, runtime: Some(Arc::new(runtime)), cleanups: TaskTracker::new() }
    }

    async fn run(&self) -> Result<(Output, Result<i32, String>), String> {
        let words = ["check".to_owned()];
        let command = Command::for_output(&self.container, &words);
        let (streams, process) = self.executor().start(command).await.map_err(|error| error.to_string())?;
        process.keep().with_code(streams.collect(1000)).await
    }
}

async fn gone(pid: &Path) {
    let pid: i64 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    tokio::time::timeout(Duration::from_secs(5), kube_pet_host::exits::wait_exit(pid)).await.expect("the process ends").unwrap();
}

#[tokio::test]
async fn component_output_and_code_are_the_process_s() {
    let machine = Machine::new("greeting=$(grep -o 'GREETING=[a-z]*' $document); begin $$; echo out; echo $greeting; echo err >&2; exit 7");
    let (output, code) = machine.run().await.unwrap();
    assert_eq!(code, Ok(7));
    assert_eq!(String::from_utf8(output.joined()).unwrap(), "out\nGREETING=hello\nerr\n");
}

#[tokio::test]
async fn component_what_never_began_is_an_error_in_the_runtime_s_words() {
    let machine = Machine::new("say 'first'; say 'executable file `check` not found'; echo 'the same on stderr' >&2; exit 255");
    assert_eq!(machine.run().await.unwrap_err(), "OCI runtime exec failed: executable file `check` not found");
    let silent = Machine::new("kill -9 $$").run().await.unwrap_err();
    assert!(silent.contains("signal: 9") && silent.contains("said nothing"), "{silent}");
}

#[tokio::test]
async fn component_what_could_not_be_executed_after_all_is_an_error_too() {
    let (_, code) = Machine::new("begin $$; say 'exec: Exec format error'; exit 1").run().await.unwrap();
    assert_eq!(code, Err("OCI runtime exec failed: exec: Exec format error".to_owned()));
}

#[tokio::test]
async fn component_a_container_of_another_runtime_is_podman_s() {
    let mut machine = Machine::new("begin $$");
    machine.container = ContainerId::new("c2");
    machine.fake = Fake::start(|_, _| Answer::Reply(409, br#"{"cause": "x", "message": "asked", "response": 409}"#.to_vec()));
    assert!(machine.run().await.unwrap_err().contains("asked"));
    // So is everything where there is no such program any more.
    machine.container = ContainerId::new("c1");
    machine.program = machine.dir.path().join("nosuch");
    assert!(machine.run().await.unwrap_err().contains("asked"));
}

#[tokio::test]
async fn component_the_end_of_the_input_reaches_the_process() {
    let machine = Machine::new("sleep 0.1; begin $$; cat");
    let words = ["cat".to_owned()];
    let command = Command { stdin: true, stderr: false, ..Command::for_output(&machine.container, &words) };
    let (streams, process) = machine.executor().start(command).await.unwrap();
    let Streams::Pipes { stdin: Some(mut stdin), stdout: Some(mut stdout), stderr: None } = streams else { panic!("pipes") };
    tokio::io::AsyncWriteExt::write_all(&mut stdin, b"through").await.unwrap();
    drop(stdin);
    let mut read = String::new();
    stdout.read_to_string(&mut read).await.unwrap();
    assert_eq!((read.as_str(), process.keep().code().await), ("through", Ok(0)));
}

#[tokio::test]
async fn component_a_process_is_killed_when_nobody_wants_it_and_only_then() {
    // The process is the runtime's child, as crun's is.
    let machine = Machine::new("sleep 100 & begin $!; wait $!; exit 137");
    let words = ["sleep".to_owned()];
    let executor = machine.executor();
    let command = Command::for_output(&machine.container, &words);
    let (_streams, process) = executor.start(command).await.unwrap();
    let Process::Runtime(runtime) = &*process else { panic!("by the runtime") };
    let pid = machine.dir.path().join("pid");
    fs::write(&pid, runtime.pid().to_string()).unwrap();
    let kept = process.keep();
    assert!(tokio::time::timeout(Duration::from_millis(100), kept.code()).await.is_err(), "it goes on");
    drop(KillOnDrop::new(kept.clone(), executor.cleanups.clone()));
    executor.idle().await;
    gone(&pid).await;
    assert_eq!(kept.code().await, Ok(137));
}

#[tokio::test]
async fn component_a_runtime_that_does_not_begin_is_killed_with_the_wish() {
    let machine = Machine::new("echo $$ >$2/pid; exec sleep 100");
    let started = tokio::time::timeout(Duration::from_millis(500), machine.run()).await;
    assert!(started.is_err());
    gone(&machine.dir.path().join("crun/pid")).await;
}
