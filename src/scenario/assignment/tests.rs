//! Who does what: nobody is forgotten or there twice, whatever the cell.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::{Overrides, Source, load};
use super::*;

const RUN: u64 = 0x0123_4567_89ab_cdef;

fn spec(body: &str) -> CellSpec {
    let source = Source {
        path: None,
        text: format!("name = \"t\"\n{body}"),
    };
    let scenario = load(&source, &Overrides::default()).unwrap_or_else(|e| panic!("{e}"));
    scenario.cells[0].spec.clone()
}

fn planned(body: &str) -> TrialPlan {
    plan(&spec(body), RUN, 7, 1)
}

/// Whether a subject filter of NATS selects a subject.
fn selects(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(token), Some(other)) if token == other => {}
            _ => return false,
        }
    }
}

fn published(plan: &TrialPlan) -> impl Iterator<Item = &PublisherPlan> {
    plan.assignments
        .iter()
        .flat_map(|a| a.publishers.iter().chain(&a.prefill))
}

#[derive(Debug, Clone)]
struct Shape {
    body: String,
    pods: u32,
    publishers: u32,
    subscribers: u32,
    threads: u32,
    connections: Option<u32>,
    messages: u64,
}

fn any_shape() -> impl Strategy<Value = Shape> {
    let layout = prop_oneof![Just("shared"), Just("per-app"), Just("per-type")];
    let load = (1u32..5, 1u32..4, 1u32..5, 0u32..5, 20u64..90, 0u64..3);
    let loops = (1u32..9, any::<bool>(), 0u32..3, any::<bool>());
    (layout, load, loops).prop_map(
        |(layout, (pods, types, publishers, subscribers, messages, prefill), (t, c, keys, kv))| {
            let clients = publishers + subscribers;
            let threads = 1 + t % clients;
            let connections = c.then_some(threads + (clients - threads) / 2);
            let line = |key: &str, n: Option<u32>| {
                n.map_or(String::new(), |n| format!("{key} = {n}\n"))
            };
            let body = format!(
                "[stream]\nlayout = \"{layout}\"\nkind = \"{}\"\n[workload]\npods = {pods}\n\
                 apps = {}\ntypes = {types}\npublishers = {publishers}\nsubscribers = {subscribers}\n\
                 messages = {messages}\nprefill = {prefill}\nthreads = {threads}\n{}{}",
                if kv { "kv" } else { "stream" },
                pods.div_ceil(2),
                line("connections", connections),
                line("keys", (keys > 0).then_some(keys)),
            );
            Shape { body, pods, publishers, subscribers, threads, connections, messages }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn shares_of_a_pod_add_up(messages in 0u64..10_000, publishers in 1u32..30) {
        let sum: u64 = (0..publishers).filter_map(|k| messages_of(Length::Messages(messages), publishers, k)).sum();
        prop_assert_eq!(sum, messages);
    }

    #[test]
    fn event_loops_share_the_work_and_none_is_idle(shape in any_shape()) {
        let plan = planned(&shape.body);
        let loops = &plan.assignments;
        prop_assert_eq!(loops.len() as u32, shape.pods * shape.threads);
        for (number, a) in (0..).zip(loops) {
            prop_assert_eq!((a.worker, a.pod), (number, number / shape.threads));
            prop_assert!(a.publishers.len() + a.subscribers.len() > 0);
            prop_assert!(a.prefill.is_none() || number % shape.threads == 0);
        }
        let ids: Vec<u32> = loops.iter().flat_map(|a| a.publishers.iter().map(|p| p.id)).collect();
        let distinct: BTreeSet<u32> = ids.iter().copied().collect();
        prop_assert_eq!(ids.len() as u32, shape.pods * shape.publishers);
        prop_assert_eq!(distinct, (0..shape.pods * shape.publishers).collect::<BTreeSet<u32>>());
        let groups: BTreeSet<&String> = loops.iter().flat_map(|a| a.subscribers.iter().map(|s| &s.group)).collect();
        prop_assert_eq!(groups.len() as u32, shape.pods * shape.subscribers);
        let messages: u64 = loops.iter().flat_map(|a| &a.publishers).filter_map(|p| p.messages).sum();
        prop_assert_eq!(messages, u64::from(shape.pods) * shape.messages);
        for pod in 0..shape.pods {
            let of_pod: Vec<&Assignment> = loops.iter().filter(|a| a.pod == pod).collect();
            let clients = |a: &&Assignment| a.publishers.len() + a.subscribers.len();
            let (most, least) = (of_pod.iter().map(clients).max(), of_pod.iter().map(clients).min());
            prop_assert!(most.unwrap_or(0) <= least.unwrap_or(0) + 1);
            let connections: Option<u32> = of_pod.iter().map(|a| a.connections).sum();
            prop_assert_eq!(connections, shape.connections);
            prop_assert!(of_pod.iter().all(|a| a.connections.is_none_or(|n| n as usize <= clients(a))));
        }
    }

    #[test]
    fn each_subject_is_in_one_stream_and_read_by_its_app_alone(shape in any_shape()) {
        let spec = spec(&shape.body);
        let plan = plan(&spec, RUN, 7, 1);
        let mut owners: BTreeMap<&str, &PublisherPlan> = BTreeMap::new();
        for publisher in published(&plan) {
            let keys = spec.workload.keys.unwrap_or(1);
            prop_assert_eq!(publisher.subjects.len() as u32, keys * spec.workload.types);
            for subject in &publisher.subjects {
                let twin = owners.insert(subject, publisher);
                prop_assert!(spec.workload.keys.is_none() || twin.is_none(), "{}", subject);
                let of = |s: &&StreamPlan| s.subjects.iter().any(|f| selects(f, subject));
                let streams: Vec<&StreamPlan> = plan.streams.iter().filter(of).collect();
                prop_assert_eq!(streams.len(), 1, "{}", subject);
                for consumer in &plan.consumers {
                    let reads = consumer.stream == streams[0].name && selects(&consumer.filter, subject);
                    let pod: u32 = consumer.name.split("_p").nth(1).and_then(|n| n.split('_').next())
                        .and_then(|n| n.parse().ok()).expect("its pod");
                    let same_app = pod % spec.workload.apps == publisher.app;
                    let same_stream = consumer.stream == streams[0].name;
                    prop_assert_eq!(reads, same_app && same_stream, "{} {:?}", subject, consumer);
                }
            }
        }
    }
}

#[test]
fn one_event_loop_is_the_pod_itself() {
    let plan = planned("[workload]\npods = 3\npublishers = 2\nsubscribers = 2\nconnections = 3\n");
    let loops: Vec<_> = plan
        .assignments
        .iter()
        .map(|a| {
            (
                a.worker,
                a.pod,
                a.publishers.len(),
                a.subscribers.len(),
                a.connections,
            )
        })
        .collect();
    let all = |pod| (pod, pod, 2, 2, Some(3));
    assert_eq!(loops, [all(0), all(1), all(2)]);
}

#[test]
fn keys_take_turns_after_the_types() {
    let plan = planned(
        "[workload]\npublishers = 2\ntypes = 2\nkeys = 2\n[stream]\nlayout = \"per-type\"\n",
    );
    assert_eq!(
        plan.assignments[0].publishers[1].subjects,
        [
            "jsb.01234567.t7.app0.type0.p1.k0",
            "jsb.01234567.t7.app0.type1.p1.k0",
            "jsb.01234567.t7.app0.type0.p1.k1",
            "jsb.01234567.t7.app0.type1.p1.k1",
        ]
    );
    assert_eq!(plan.streams[1].subjects, ["jsb.01234567.t7.app0.type1.>"]);
    assert_eq!(plan.consumers[1].filter, "jsb.01234567.t7.app0.type1.>");
}

#[test]
fn a_bucket_is_named_as_clients_name_it() {
    let plan =
        planned("[stream]\nkind = \"kv\"\nlayout = \"per-app\"\n[workload]\npods = 2\nkeys = 1\n");
    let names: Vec<_> = plan
        .streams
        .iter()
        .map(|s| (s.name.as_str(), s.subjects[0].as_str()))
        .collect();
    assert_eq!(
        names,
        [
            ("KV_JSB_01234567_t7_app0", "$KV.JSB_01234567_t7_app0.>"),
            ("KV_JSB_01234567_t7_app1", "$KV.JSB_01234567_t7_app1.>"),
        ]
    );
    assert_eq!(
        plan.assignments[1].publishers[0].subjects,
        ["$KV.JSB_01234567_t7_app1.app1.type0.p1.k0"]
    );
    let FeedPlan::Pull { stream, .. } = &plan.assignments[1].subscribers[0].feeds[0] else {
        panic!("a pull consumer by default")
    };
    assert_eq!(stream, "KV_JSB_01234567_t7_app1");
    assert_eq!(plan.consumers[1].filter, "$KV.JSB_01234567_t7_app1.app1.>");
}

#[test]
fn gets_ask_for_sequences_of_a_stream_and_for_keys_of_a_bucket() {
    let drain = "[consumer]\nkind = \"get\"\n[workload]\npublishers = 0\npods = 3\napps = 2\ntypes = 2\nprefill = 3\n";
    let plan = planned(&format!("{drain}[stream]\nlayout = \"shared\"\n"));
    assert_eq!(
        plan.assignments[1].subscribers[0].feeds,
        [FeedPlan::Get {
            stream: "JSB_01234567_t7".to_owned(),
            what: GetPlan::Sequences {
                filter: "jsb.01234567.t7.app1.>".to_owned(),
                batch: 1,
            },
        }]
    );
    assert!(plan.consumers.is_empty());
    for layout in ["shared", "per-app", "per-type"] {
        let plan = planned(&format!(
            "{drain}[stream]\nkind = \"kv\"\nlayout = \"{layout}\"\n"
        ));
        let asked: Vec<&String> = plan.assignments[0].subscribers[0]
            .feeds
            .iter()
            .flat_map(|feed| match feed {
                FeedPlan::Get {
                    what: GetPlan::Subjects(subjects),
                    ..
                } => subjects.iter(),
                other => panic!("{other:?}"),
            })
            .collect();
        // Pods 0 and 2 serve app 0; each filled in three messages.
        let held: BTreeSet<&String> = [0, 2]
            .iter()
            .filter_map(|pod: &usize| plan.assignments[*pod].prefill.as_ref())
            .flat_map(|prefill| &prefill.subjects[..3])
            .collect();
        assert_eq!(asked.len(), 6, "{layout}");
        assert_eq!(asked.into_iter().collect::<BTreeSet<_>>(), held, "{layout}");
    }
}

#[test]
fn requests_are_answered_by_one_of_the_apps_subscribers() {
    let plan =
        planned("[publish]\nmode = \"request\"\n[workload]\npods = 2\napps = 1\nsubscribers = 2\n");
    assert!(plan.streams.is_empty() && plan.consumers.is_empty());
    assert_eq!(plan.subscriptions, BTreeMap::from([(0, 1)]));
    for subscriber in plan.assignments.iter().flat_map(|a| &a.subscribers) {
        assert_eq!(
            subscriber.feeds,
            [FeedPlan::Core {
                subject: "jsb.01234567.t7.app0.>".to_owned(),
                group: Some("JSB_01234567_t7_app0".to_owned()),
            }]
        );
    }
}

#[test]
fn headers_go_out_in_the_order_of_the_file_and_the_time_to_live_behind_them() {
    let plan = planned(
        "[publish]\nttl = \"5m\"\nheaders = { z = \"1\", \"a.b\" = \"2\" }\n\
         [expect]\nabsences = [\"ttl\"]\n",
    );
    let headers = plan.assignments[0].headers.iter();
    let headers: Vec<_> = headers.map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(headers, [("z", "1"), ("a.b", "2"), ("Nats-TTL", "300s")]);
}
