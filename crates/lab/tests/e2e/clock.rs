//! Pets whose clock is wrong: what the agent is told of the time of day, by libfaketime.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube_pet_lab::{
    Pet, PetOptions, Suite, eventually,
    joining::{self, join},
    progress::say,
    wrong_clock,
};
use kube_pet_testkit::capability::available;
use serde_json::{Value, json};

use crate::{
    controller::Cluster,
    harness::{Bed, SOON, condition, pod_ip, restarts},
    tunnel::{Homes, home, server},
};

const RIGHT: SignedDuration = SignedDuration::ZERO;
/// A node that is not heard of is not Ready after 50 s.
const UNHEARD: &str = "60s";
/// The tunnel agrees on keys after two minutes, and takes none that are older than three.
const REKEYED: &str = "190s";
/// Requests for certificates are tried again after two minutes at the latest.
const RETRIED: Duration = Duration::from_secs(180);

fn can_be_wrong() -> bool {
    // Pets with another Debian have what is in that.
    let own = Suite::from_env().is_ok_and(|suite| suite.is_none());
    available("libfaketime on the pets (package faketime)", own && wrong_clock::library().exists())
}

/// Nodes stay Ready for so long.
async fn stay_ready(bed: &Bed, nodes: &[&str], time: &str) -> Result<()> {
    let changed: Vec<String> = nodes.iter().map(|name| format!("node/{name}")).collect();
    let waits = changed.iter().map(async |node| {
        let gone = bed.lab.kubectl(&["wait", "--for=condition=Ready=Unknown", node, "--timeout", time]).await;
        ensure!(gone.is_err(), "{node} was not heard of");
        anyhow::Ok(())
    });
    futures::future::try_join_all(waits).await?;
    for name in nodes {
        kube_pet_lab::cluster::node_ready(&bed.client, name, Duration::from_secs(1)).await?;
    }
    Ok(())
}

/// One pod reaches the other through the tunnel.
async fn reaches(bed: &Bed, from: &str, to: &str, limit: Duration) -> Result<Duration> {
    let address = pod_ip(&bed.get(to).await?).context("a running pod has an address")?.to_owned();
    let url = format!("http://{address}:8080/hostname");
    let ask = ["exec", from, "--", "curl", "-sS", "-m", "2", url.as_str()];
    let begun = Instant::now();
    let answer = eventually(limit, &format!("{from} reaches {to}"), || bed.kubectl(&ask)).await?;
    ensure!(answer == to, "{from} was answered by {answer}");
    Ok(begun.elapsed())
}

async fn serve(bed: &Bed, pods: &[(&str, &str)]) -> Result<()> {
    for (name, node) in pods {
        bed.create::<Pod>(server(name, node)).await?;
    }
    for (name, _) in pods {
        bed.until(name, SOON, "is ready", |pod| condition(pod, "Ready") == "True").await?;
    }
    Ok(())
}

#[e2e]
async fn e2e_three_minutes_ahead_and_behind_do_not_matter() -> Result<()> {
    if !can_be_wrong() {
        return Ok(());
    }
    let tunnel = json!({"enabled": true, "direct": false});
    let ahead = home("ahead", tunnel.clone()).with_clock(SignedDuration::from_mins(3));
    let behind = home("behind", tunnel).with_clock(SignedDuration::from_mins(-3));
    let homes = Homes::start_with("clock", &["gw1"], [ahead, behind]).await?;
    let Homes { bed, b, .. } = &homes;

    let begun = Timestamp::now();
    serve(bed, &[("a", bed.pet.name()), ("b", b.name())]).await?;
    for (from, to) in [("a", "b"), ("b", "a")] {
        reaches(bed, from, to, SOON).await?;
        let log = bed.kubectl(&["logs", from, "--since-time", &begun.to_string()]).await?;
        ensure!(log.contains("8080"), "the log of {from} since {begun}: {log}");
        // A token that is bound to the pod, read by the pod itself.
        let token = "curl -sSk -m 5 -o /dev/null -w %{http_code} -H \"Authorization: Bearer $(cat /var/run/secrets/kubernetes.io/serviceaccount/token)\" \
                     https://$KUBERNETES_SERVICE_HOST/api";
        ensure!(bed.kubectl(&["exec", from, "--", "sh", "-c", token]).await? == "200", "the token of {from} is not accepted");
        bed.event(from, "Started").await?;
    }
    for (pet, told) in [(&bed.pet, "ahead of the API server's"), (b, "behind the API server's")] {
        ensure!(pet.agent_log().contains(told), "{} does not tell that its clock is {told}: {}", pet.name(), pet.agent_log());
    }
    stay_ready(bed, &[bed.pet.name(), b.name()], UNHEARD).await?;
    homes.end(&["a", "b"]).await
}

/// What the doctor finds of the clock.
async fn finding(pet: &Pet) -> Result<Value> {
    let text = pet.doctor("--output json").await?;
    let found: Vec<Value> = serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))?;
    found.into_iter().find(|finding| finding["id"] == "clock").with_context(|| format!("no finding about the clock: {text}"))
}

#[e2e]
async fn e2e_a_machine_with_a_wrong_clock_is_told_so_and_joins_when_it_is_set() -> Result<()> {
    if !can_be_wrong() {
        return Ok(());
    }
    let cluster = Cluster::start("168h").await?;
    // A clock without a battery, which begins anew with each start: the API server's certificate is not valid yet.
    let pet = joining::machine(&cluster.lab, PetOptions::new("late").with_clock(SignedDuration::from_hours(-55 * 365 * 24))).await?;
    let token = joining::token(&cluster.lab, &["--ttl", "1h"]).await?;
    let (done, text) = join(&pet, &token, "").await?;
    ensure!(!done && text.contains("behind the API server's") && !text.contains("is not the cluster"), "{text}");
    for (hours, told) in [(1, "3600 s ahead of the API server's"), (-24, "s behind the API server's")] {
        pet.set_clock(SignedDuration::from_hours(hours))?;
        let (done, text) = join(&pet, &token, "").await?;
        ensure!(!done && text.contains(told), "{hours} h: {text}");
        let finding = finding(&pet).await?;
        ensure!(finding["severity"] == "error", "{hours} h: {finding}");
    }

    // The agent waits, says why, and goes on when the clock is set.
    pet.start_agent().await?;
    let agent = pet.agent()?;
    agent.logged("24h behind the API server's", SOON).await.or_else(
        |error| {
            if agent.log().contains("23h 59m") { Ok(()) } else { Err(error) }
        },
    )?;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    ensure!(nodes.get_opt(pet.name()).await?.is_none(), "no certificate, no Node");
    pet.set_clock(RIGHT)?;
    let begun = Instant::now();
    pet.ready(RETRIED).await?;
    say(format!("Ready {:?} after the clock was set", begun.elapsed()));
    ensure!(agent.is_running(), "by the same agent");
    pet.remove().await
}

/// Of the tunnel of the test's pet.
async fn public_key(bed: &Bed) -> Result<String> {
    bed.lab.kubectl(&["get", "pet", bed.pet.name(), "-o", "jsonpath={.spec.publicKey}"]).await
}

#[e2e]
async fn e2e_a_clock_that_goes_back_by_an_hour_disturbs_no_pod_and_the_tunnel_lives() -> Result<()> {
    if !can_be_wrong() {
        return Ok(());
    }
    let tunnel = json!({"enabled": true, "direct": false});
    let ahead = home("hour-ahead", tunnel.clone()).with_clock(SignedDuration::from_hours(1));
    let homes = Homes::start_with("clock-back", &["gw1"], [ahead, home("right", tunnel)]).await?;
    let Homes { bed, b, .. } = &homes;
    serve(bed, &[("a", bed.pet.name()), ("b", b.name())]).await?;
    reaches(bed, "b", "a", SOON).await?;
    let agent = bed.pet.agent()?;
    agent.logged("clock is 1h ahead of the API server's", SOON).await?;

    bed.pet.set_clock(RIGHT)?;
    agent.logged("clock agrees with the API server's again", SOON).await?;
    for (from, to) in [("b", "a"), ("a", "b")] {
        let took = reaches(bed, from, to, Duration::from_secs(5)).await?;
        say(format!("{from} reaches {to} within {took:?} of the change"));
    }
    let address = pod_ip(&bed.get("b").await?).context("a running pod has an address")?.to_owned();
    let ask = format!("curl -sS -m 2 http://{address}:8080/hostname");
    stay_ready(bed, &[bed.pet.name()], REKEYED).await?;
    ensure!(bed.pet.shell(&ask).await? == "b", "by keys that were agreed on since");
    ensure!(restarts(&bed.get("a").await?, "c") == 0, "the pod was restarted");
    ensure!(agent.is_running(), "the agent has ended: {}", agent.log());

    // The next agent begins by the right time, an hour before what the gateway has seen, which refuses that: it takes another key, although
    // nothing is sent to it.
    bed.pet.stop_agent().await?;
    let key = public_key(bed).await?;
    bed.pet.start_agent().await?;
    let begun = Instant::now();
    let answer = eventually(SOON, "the machine itself reaches b", || bed.pet.shell(&ask)).await?;
    ensure!(answer == "b", "{answer}");
    say(format!("the machine reaches b {:?} after the agent was started again", begun.elapsed()));
    ensure!(public_key(bed).await? != key, "by the same key");

    // A machine that keeps no time begins in the past, and is told the time later.
    bed.pet.stop_agent().await?;
    let key = public_key(bed).await?;
    bed.pet.set_clock(SignedDuration::from_hours(-1))?;
    bed.pet.start_agent().await?;
    tokio::time::sleep(Duration::from_secs(6)).await;
    ensure!(bed.pet.shell(&ask).await.is_err(), "the gateway has taken a handshake that is an hour older than the last one");
    bed.pet.set_clock(RIGHT)?;
    let begun = Instant::now();
    let answer = eventually(SOON, "the machine itself reaches b", || bed.pet.shell(&ask)).await?;
    ensure!(answer == "b", "{answer}");
    say(format!("the machine reaches b {:?} after the clock was set forward", begun.elapsed()));
    ensure!(public_key(bed).await? == key, "another key was not wanted");
    homes.end(&["a", "b"]).await
}
