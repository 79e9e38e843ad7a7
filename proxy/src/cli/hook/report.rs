//! Judges a hook's DaemonSet: which nodes are done, why the others are not, and whether Helm may go on. Pure.

use serde_json::Value;

use super::Purpose;

/// The most lines for nodes that are not done, for a large cluster.
const SHOWN: usize = 50;

/// In characters. A kubelet keeps the last lines of a container that failed, up to 2 KiB.
const REASON: usize = 600;

/// The state of the DaemonSet at one moment.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// How many nodes the DaemonSet is for; `None` until its controller has looked.
    pub(super) wanted: Option<u64>,
    /// How many nodes have the pod, and on how many it is ready.
    pub(super) scheduled: u64,
    pub(super) done: u64,
    /// Nodes whose pod is not ready, in order. Empty until the time is up.
    pub(super) others: Vec<(String, Why)>,
    /// Why the API server refuses the pods, if it does.
    pub(super) refusal: Option<String>,
    /// Whether larder's own DaemonSet has pods. Known only if a node lacks a pod of the hook's.
    pub(super) larder_runs: bool,
}

/// Why a node is not done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The node's kubelet has not seen the pod.
    Silent,
    /// What the pod's containers wait for, or how they failed.
    Said(String),
}

/// Whether Helm may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    GoOn,
    Stop,
}

impl Look {
    /// From the DaemonSet alone, since a large cluster has many pods.
    pub(super) fn of(set: &Value) -> Self {
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let status = &set["status"];
        let generation = number(&set["metadata"]["generation"]).max(1);
        let seen = number(&status["observedGeneration"]) >= generation;
        Self {
            wanted: seen.then(|| number(&status["desiredNumberScheduled"])),
            scheduled: number(&status["currentNumberScheduled"]),
            done: number(&status["numberReady"]),
            ..Self::default()
        }
    }

    /// Sets the nodes that are not done, from the DaemonSet's pods.
    pub(super) fn name_others(&mut self, pods: &[Value]) {
        // A pod that is being deleted says nothing about its node.
        let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        let others = pods.iter().filter(stays).filter(|pod| !is_ready(pod));
        self.others = others.map(|pod| (node(pod), why(pod))).collect();
        self.others.sort_by(|a, b| a.0.cmp(&b.0));
    }

    /// Whether nodes lack the hook's pod, which they may do for ever.
    pub(super) fn lacks_pods(&self) -> bool {
        self.wanted.is_some_and(|wanted| self.scheduled < wanted)
    }

    pub(super) fn is_done(&self) -> bool {
        self.wanted.is_some_and(|wanted| self.done >= wanted)
    }
}

/// Decides whether Helm may go on. `over` says that the time is up.
pub(super) fn verdict(look: &Look, purpose: Purpose, over: bool) -> Verdict {
    if look.is_done() {
        return Verdict::GoOn;
    }
    // If larder has no pods either, none was ever let in, and the nodes have nothing to restore. If it has pods, they
    // were let in before, and their nodes do have.
    if look.refusal.is_some() && look.scheduled == 0 {
        return match purpose {
            Purpose::Removal if !look.larder_runs => Verdict::GoOn,
            _ => Verdict::Stop,
        };
    }
    if !over {
        return Verdict::Wait;
    }
    // An upgrade may leave silent nodes behind: when a node comes back, its new pod gets the image from the registry. A
    // removal may not: its files would send the runtime to a port without larder.
    let silent = look.others.iter().all(|(_, why)| *why == Why::Silent);
    match purpose {
        Purpose::Upgrade if silent && !look.lacks_pods() && look.done > 0 => Verdict::GoOn,
        _ => Verdict::Stop,
    }
}

/// The text for a person: the reason of each node, and what to do.
pub(super) fn lines(look: &Look, purpose: Purpose, larder: &str, goes_on: bool) -> Vec<String> {
    let (wanted, done) = (look.wanted.unwrap_or(0), look.done);
    let mut lines = vec![format!("{done} of {wanted} nodes are done")];
    for (node, why) in look.others.iter().take(SHOWN) {
        lines.push(match why {
            Why::Silent => format!("{node}: the node does not answer"),
            Why::Said(said) => format!("{node}: {said}"),
        });
    }
    if look.others.len() > SHOWN {
        lines.push(format!("and {} more nodes", look.others.len() - SHOWN));
    }
    if let Some(refusal) = &look.refusal {
        lines.push(format!("no pod is let in: {}", shortened(refusal)));
        lines.push(if purpose == Purpose::Removal && goes_on {
            "larder has no pod here, so it is removed. If it ran on these nodes before, run `larder uninstall` on each".to_owned()
        } else {
            "larder's pods need a namespace with the Pod Security level privileged: kubectl label namespace NAMESPACE \
             pod-security.kubernetes.io/enforce=privileged --overwrite"
                .to_owned()
        });
        return lines;
    }
    match (purpose, goes_on) {
        (_, true) if look.is_done() => {}
        (Purpose::Upgrade, true) => lines.push(
            "the upgrade goes on; nodes that do not answer get the new image from the registry when they come back".to_owned(),
        ),
        (Purpose::Upgrade, false) => {
            lines.push("nothing was changed; correct this and upgrade again, or use --no-hooks".to_owned());
        }
        (Purpose::Removal, _) => {
            lines.push(format!(
                "larder stays. The {done} nodes that are done pull past it until their pod restarts: kubectl rollout restart daemonset/{larder}"
            ));
            lines.push(
                "to remove it all the same: helm uninstall --no-hooks; then run `larder uninstall` on the other nodes".to_owned(),
            );
        }
    }
    lines
}

fn node(pod: &Value) -> String {
    let spec = &pod["spec"];
    if let Some(name) = spec["nodeName"].as_str() {
        return name.to_owned();
    }
    // The DaemonSet's controller writes the node's name there before the scheduler binds the pod.
    let affinity =
        &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let name = &affinity["nodeSelectorTerms"][0]["matchFields"][0]["values"][0];
    name.as_str().unwrap_or("a node").to_owned()
}

fn is_ready(pod: &Value) -> bool {
    conditions(pod).any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn conditions(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["status"]["conditions"].as_array().into_iter().flatten()
}

/// Why a pod is not ready: how its containers ended, or what they wait for. The first container with a reason counts.
fn why(pod: &Value) -> Why {
    let status = &pod["status"];
    let containers = ["initContainerStatuses", "containerStatuses"];
    let containers = containers.iter().filter_map(|kind| status[kind].as_array());
    for container in containers.flatten() {
        let name = container["name"].as_str().unwrap_or_default();
        let ended = [
            &container["state"]["terminated"],
            &container["lastState"]["terminated"],
        ];
        let failed = ended
            .into_iter()
            .find(|ended| ended["exitCode"].as_i64().unwrap_or(0) != 0);
        if let Some(failed) = failed {
            let message = failed["message"].as_str().unwrap_or_default().trim();
            let code = &failed["exitCode"];
            return Why::Said(match message {
                "" => format!("{name} exited with {code}"),
                message => format!("{name}: {}", shortened(message)),
            });
        }
        let waiting = &container["state"]["waiting"];
        let reason = waiting["reason"].as_str().unwrap_or_default();
        if !matches!(reason, "" | "PodInitializing" | "ContainerCreating") {
            let message = waiting["message"].as_str().unwrap_or_default();
            return Why::Said(
                format!("{name}: {reason} {}", shortened(message))
                    .trim()
                    .to_owned(),
            );
        }
    }
    let unscheduled = conditions(pod)
        .find(|one| one["type"] == "PodScheduled" && one["status"] == "False")
        .and_then(|one| one["message"].as_str());
    match (unscheduled, status["startTime"].as_str()) {
        (Some(message), _) => Why::Said(shortened(message)),
        (None, None) => Why::Silent,
        (None, Some(_)) => Why::Said("its containers have not started yet".to_owned()),
    }
}

/// The text in one line. A long text loses its beginning, since the error stands at the end.
fn shortened(text: &str) -> String {
    let line = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = line.collect::<Vec<_>>().join(" / ");
    let chars = line.chars().count();
    if chars <= REASON {
        return line;
    }
    let end: String = line.chars().skip(chars - REASON).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A DaemonSet for `wanted` nodes that has these pods, when the time is up.
    fn look(wanted: u64, pods: &[Value]) -> Look {
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        let status = json!({
            "observedGeneration": 1,
            "desiredNumberScheduled": wanted,
            "currentNumberScheduled": pods.len(),
            "numberReady": ready,
        });
        let mut look = Look::of(&json!({"metadata": {"generation": 1}, "status": status}));
        look.name_others(pods);
        look
    }

    fn pod(node: &str, status: &Value) -> Value {
        json!({"metadata": {}, "spec": {"nodeName": node}, "status": status})
    }

    fn ready() -> Value {
        json!({"startTime": "t", "conditions": [{"type": "Ready", "status": "True"}]})
    }

    fn failed(message: &str) -> Value {
        json!({"startTime": "t", "initContainerStatuses": [{
            "name": "check",
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
            "lastState": {"terminated": {"exitCode": 1, "message": message}},
        }]})
    }

    /// A pod that no kubelet has seen.
    fn silent() -> Value {
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]})
    }

    #[test]
    fn the_reason_of_each_node_is_what_its_pod_says() {
        let gone = json!({"metadata": {"deletionTimestamp": "t"}, "status": silent()});
        let pods = [
            pod("c", &failed("error:\n3:1: unknown key `x`\n")),
            pod("a", &ready()),
            pod("b", &silent()),
            pod(
                "d",
                &json!({"startTime": "t", "containerStatuses": [
                {"name": "stay", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}}]}),
            ),
            pod("e", &json!({"startTime": "t"})),
            gone,
        ];
        let of_five = look(5, &pods);
        assert_eq!((of_five.done, of_five.lacks_pods()), (1, false));
        let lines = lines(&of_five, Purpose::Upgrade, "larder", false);
        assert_eq!(
            lines[..5],
            [
                "1 of 5 nodes are done",
                "b: the node does not answer",
                "c: check: error: / 3:1: unknown key `x`",
                "d: stay: ImagePullBackOff Back-off pulling image",
                "e: its containers have not started yet",
            ]
        );
        let unplaced = json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "values": ["f"]}]}]}}}},
            "status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}]}});
        let look = look(1, &[unplaced]);
        assert_eq!(
            look.others,
            [("f".to_owned(), Why::Said("0/1 nodes".to_owned()))]
        );
    }

    #[test]
    fn helm_goes_on_where_that_is_safe() {
        use Purpose::{Removal, Upgrade};
        use Verdict::{GoOn, Stop, Wait};
        let done = look(1, &[pod("a", &ready())]);
        let dead = look(2, &[pod("a", &ready()), pod("b", &silent())]);
        let all_dead = look(1, &[pod("b", &silent())]);
        let wrong = look(2, &[pod("a", &ready()), pod("b", &failed("no"))]);
        let unseen = Look::of(&json!({"metadata": {"generation": 1}}));
        for (look, purpose, soon, late) in [
            (&done, Upgrade, GoOn, GoOn),
            (&done, Removal, GoOn, GoOn),
            (&dead, Upgrade, Wait, GoOn),
            (&dead, Removal, Wait, Stop),
            (&all_dead, Upgrade, Wait, Stop),
            (&wrong, Upgrade, Wait, Stop),
            (&wrong, Removal, Wait, Stop),
            (&unseen, Upgrade, Wait, Stop),
            (&look(0, &[]), Removal, GoOn, GoOn),
        ] {
            assert_eq!(verdict(look, purpose, false), soon, "{look:?}");
            assert_eq!(verdict(look, purpose, true), late, "{look:?} {purpose:?}");
        }
    }

    /// Pod Security refuses every pod, so waiting would not help.
    #[test]
    fn a_namespace_that_lets_no_pod_in_ends_the_hook_at_once() {
        let mut look = look(2, &[]);
        assert!(look.lacks_pods());
        assert_eq!(verdict(&look, Purpose::Removal, false), Verdict::Wait);
        look.refusal = Some("violates PodSecurity \"baseline:latest\"".to_owned());
        assert_eq!(verdict(&look, Purpose::Upgrade, false), Verdict::Stop);
        assert_eq!(verdict(&look, Purpose::Removal, false), Verdict::GoOn);
        look.larder_runs = true;
        assert_eq!(verdict(&look, Purpose::Removal, false), Verdict::Stop);
        let lines = lines(&look, Purpose::Removal, "larder", false);
        assert!(
            lines.last().unwrap().contains("enforce=privileged"),
            "{lines:?}"
        );
    }
}
