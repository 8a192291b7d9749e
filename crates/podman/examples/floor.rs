//! Podman's own floor: how long it takes from "create" to "running" for one container through this client.
//!
//! `cargo run -p kube-pet-podman --example floor -- SOCKET IMAGE [COUNT]`

use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures::StreamExt as _;
use kube_pet_podman::{Client, ExecConfig, FrameReader, Namespace, PodSpecGenerator, SpecGenerator, StreamKind, WaitCondition};
use tokio::io::AsyncWriteExt as _;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn say(text: &str) -> Outcome<()> {
    use std::io::Write as _;
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

fn quantiles(what: &str, times: &mut [Duration]) -> String {
    times.sort();
    let at = |q: usize| times[(times.len() * q / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    format!("{what}: p50 {:.1} ms, p95 {:.1} ms, max {:.1} ms (n={})", at(50), at(95), at(100), times.len())
}

fn spec(name: &str, pod: &str, image: &str) -> SpecGenerator {
    let mut spec = SpecGenerator::new(name, image);
    pod.clone_into(&mut spec.pod);
    spec.entrypoint = vec!["/bin/sleep".into()];
    spec.command = vec!["1000".into()];
    spec.netns = Some(Namespace::host());
    spec
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let (Some(socket), Some(image)) = (args.next(), args.next()) else {
        return Err("usage: floor SOCKET IMAGE [COUNT]".into());
    };
    let count: usize = args.next().map_or(Ok(25), |text| text.parse())?;
    let client = Client::new(socket);
    let version = client.ping().await?;
    let image = client.inspect_image(&image).await?;
    say(&format!("Podman {}", version.api_version))?;

    let tag = format!("floor-{}", std::process::id());
    client.create_pod(&PodSpecGenerator::new(tag.as_str())).await?;
    let outcome = measure(&client, &tag, &image.id, count).await;
    client.remove_pod(&tag, true).await?;
    outcome
}

async fn measure(client: &Client, tag: &str, image: &str, count: usize) -> Outcome<()> {
    let (mut create, mut start, mut both) = (Vec::new(), Vec::new(), Vec::new());
    let mut ids = Vec::new();
    for i in 0..count {
        let begin = Instant::now();
        let made = client.create_container(&spec(&format!("{tag}-{i}"), tag, image)).await?;
        let middle = Instant::now();
        client.start_container(&made.id).await?;
        create.push(middle - begin);
        start.push(middle.elapsed());
        both.push(begin.elapsed());
        ids.push(made.id);
    }
    say(&quantiles("create", &mut create))?;
    say(&quantiles("start", &mut start))?;
    say(&quantiles("create + start", &mut both))?;

    let mut inspect = Vec::new();
    for id in &ids {
        let begin = Instant::now();
        client.inspect_container(id).await?;
        inspect.push(begin.elapsed());
    }
    say(&quantiles("inspect", &mut inspect))?;
    let mut exists = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        client.image_exists(image).await?;
        exists.push(begin.elapsed());
    }
    say(&quantiles("image exists", &mut exists))?;

    // One exec: standard input to standard output and error, and the exit code.
    let session = client
        .create_exec(
            &ids[0],
            &ExecConfig {
                cmd: ["sh", "-c", "cat; echo err >&2; exit 7"].map(String::from).into(),
                attach_stdin: true,
                attach_stdout: true,
                attach_stderr: true,
                ..ExecConfig::default()
            },
        )
        .await?;
    let (output, mut input) = tokio::io::split(client.start_exec(&session).await?);
    input.write_all(b"in").await?;
    input.shutdown().await?;
    let mut reader = FrameReader::new(output);
    let (mut out, mut err) = (BytesMut::new(), BytesMut::new());
    while let Some(frame) = reader.next().await? {
        match frame.stream {
            StreamKind::Stdout => out.extend_from_slice(&frame.data),
            _ => err.extend_from_slice(&frame.data),
        }
    }
    let code = client.inspect_exec(&session).await?.exit_code;
    say(&format!("exec: stdout {out:?}, stderr {err:?}, exit code {code}"))?;

    // The end of a container, by kill: how soon wait and events tell.
    let mut events = client.events(None).await?;
    let begin = Instant::now();
    client.kill_container(&ids[0], "KILL").await?;
    let wait = client.wait_container(&ids[0], WaitCondition::Stopped, Duration::from_secs(10));
    let code = wait.await?;
    say(&format!("killed: exit code {code}, wait told after {:?}", begin.elapsed()))?;
    while let Some(event) = events.next().await {
        let event = event?;
        if event.status == "died" && event.id == ids[0] {
            say(&format!("died event, code {:?}, after {:?}", event.exit_code, begin.elapsed()))?;
            break;
        }
    }
    let mut remove = Vec::new();
    for id in &ids {
        let begin = Instant::now();
        client.remove_container(id, true).await?;
        remove.push(begin.elapsed());
    }
    say(&quantiles("kill + remove", &mut remove))
}
