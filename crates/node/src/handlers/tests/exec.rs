use std::process::{Child, Command};

use kube_pet_testkit::podman::{Answer, Fake, reply as podman_reply};

use super::*;

/// A session whose process says this and ends with `code`.
fn podman(frames: Vec<u8>, code: i32) -> Fake {
    Fake::start(move |path, _| {
        if path.ends_with("/containers/c1/exec") {
            Answer::Reply(201, br#"{"Id": "e1"}"#.to_vec())
        } else if path.ends_with("/exec/e1/start") {
            Answer::Raw([upgraded(), frames.clone()].concat())
        } else {
            assert!(path.ends_with("/exec/e1/json"), "{path}");
            Answer::Reply(200, json!({"ID": "e1", "Running": false, "CanRemove": true, "ExitCode": code}).to_string().into_bytes())
        }
    })
}

fn upgraded() -> Vec<u8> {
    b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".to_vec()
}

fn frame(stream: u8, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    [&[stream, 0, 0, 0][..], &length, data].concat()
}

fn handlers(fake: &Fake) -> Handlers {
    Handlers::new(Executor::by_podman(Client::new(fake.socket())), "v1.37.1").unwrap()
}

async fn exec(fake: &Fake, container: Value) -> ProbeOutcome {
    probe_of(&handlers(fake), json!({"exec": {"command": ["sh", "-c", "check $(A)$(B)$(C)"]}}), container).await
}

#[tokio::test]
async fn component_the_exit_code_decides_and_output_is_joined() {
    let frames = || [frame(2, b"warning\n"), frame(1, b"all "), frame(1, b"well\n")].concat();
    let container = json!({"name": "c"});
    assert_eq!(exec(&podman(frames(), 0), container.clone()).await, ProbeOutcome::Success("all well\nwarning\n".into()));
    assert_eq!(exec(&podman(frames(), 3), container.clone()).await, failure("all well\nwarning\n"));
    match exec(&podman([frame(1, &[b'x'; 40 << 10]), frame(2, b"y")].concat(), 1), container).await {
        ProbeOutcome::Failure(output) => assert_eq!(output, "x".repeat(10 << 10)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn component_a_probe_s_command_is_expanded_by_what_the_spec_says() {
    let fake = podman(Vec::new(), 0);
    let env = json!([{"name": "A", "value": "0"}, {"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    exec(&fake, json!({"name": "c", "env": env})).await;
    assert!(fake.requests()[0].contains(r#"["sh","-c","check 1$(C)"]"#), "{}", fake.requests()[0]);
}

#[tokio::test]
async fn component_what_podman_refuses_is_unknown_and_tried_again() {
    let body =
        br#"{"cause": "container state improper", "message": "can only create exec sessions on running containers", "response": 409}"#;
    let fake = Fake::start(|_, _| Answer::Reply(409, body.to_vec()));
    match exec(&fake, json!({"name": "c"})).await {
        ProbeOutcome::Unknown(text) => {
            assert!(text.starts_with("rpc error: code = Unknown desc = failed to exec in container: "), "{text}");
            assert!(text.contains("can only create exec sessions on running containers"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fake.requests().len(), 3);
}

#[tokio::test]
async fn component_a_session_that_podman_cannot_start_is_removed() {
    let fake = Fake::start(|path, _| {
        if path.ends_with("/containers/c1/exec") {
            Answer::Reply(201, br#"{"Id": "e1"}"#.to_vec())
        } else if path.ends_with("/exec/e1/start") {
            Answer::Reply(500, br#"{"cause": "x", "message": "no", "response": 500}"#.to_vec())
        } else if path.ends_with("/exec/e1/json") {
            Answer::Reply(200, br#"{"ID": "e1", "Running": false, "Pid": 0}"#.to_vec())
        } else {
            Answer::Reply(200, b"{}".to_vec())
        }
    });
    let handlers = handlers(&fake);
    let failed = hook_of(&handlers, json!({"exec": {"command": ["true"]}})).await.unwrap_err();
    assert!(
        failed.starts_with("Exec lifecycle hook ([true]) for Container \"c\" in Pod \"web_default(web-uid)\" failed - error: rpc error")
    );
    handlers.idle().await;
    let last = fake.requests().pop().unwrap();
    assert!(last.starts_with("POST ") && last.contains("/exec/e1/remove "), "{last}");
}

#[tokio::test]
async fn component_a_failed_hook_tells_command_code_and_output() {
    let fake = podman([frame(1, b"out"), frame(2, b"err")].concat(), 2);
    assert_eq!(
        hook_of(&handlers(&fake), json!({"exec": {"command": ["sh", "-c", "exit 2"]}})).await.unwrap_err(),
        "Exec lifecycle hook ([sh -c exit 2]) for Container \"c\" in Pod \"web_default(web-uid)\" failed - error: \
         command 'sh -c exit 2' exited with 2: err, message: \"outerr\""
    );
    let done = hook_of(&handlers(&podman(Vec::new(), 0)), json!({"exec": {"command": ["true"]}})).await;
    assert_eq!(done, Ok(HookDone::default()));
}

/// A session with a process of this machine, that says nothing until it ends.
fn endless() -> (Fake, Child) {
    #[allow(clippy::disallowed_methods, reason = "the test needs a process that is killed")]
    let process = Command::new("sleep").arg("100").spawn().unwrap();
    let pid = process.id();
    let fake = Fake::start(move |path, _| {
        if path.ends_with("/containers/c1/exec") {
            return Answer::Reply(201, br#"{"Id": "e1"}"#.to_vec());
        }
        if path.ends_with("/exec/e1/start") {
            return Answer::RawThenHang(upgraded());
        }
        Answer::Raw(podman_reply(200, json!({"ID": "e1", "Running": true, "CanRemove": false, "Pid": pid}).to_string().as_bytes()))
    });
    (fake, process)
}

#[tokio::test]
async fn component_a_process_that_takes_too_long_is_killed() {
    let (fake, mut process) = endless();
    let begun = Instant::now();
    let outcome = exec(&fake, json!({"name": "c"})).await;
    assert_eq!(outcome, failure(r#"command timed out: "sh -c check $(A)$(B)$(C)" timed out after 1s"#));
    assert!((900..4000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    assert!(process.try_wait().unwrap().is_some(), "the process is gone when the outcome is known");
}

#[tokio::test]
async fn component_a_process_whose_hook_is_given_up_is_killed() {
    let (fake, mut process) = endless();
    let handlers = handlers(&fake);
    let hook = hook_of(&handlers, json!({"exec": {"command": ["sleep", "100"]}}));
    assert!(tokio::time::timeout(Duration::from_millis(300), hook).await.is_err());
    tokio::time::timeout(Duration::from_secs(10), handlers.idle()).await.unwrap();
    assert!(process.try_wait().unwrap().is_some());
}
