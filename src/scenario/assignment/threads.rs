//! The work of a pod over its event loops, each a thread.

use std::mem;

use super::{Assignment, share};

/// Deals what pods do to `threads` event loops each, clients in turn, so that an event loop has no
/// more than one client more than another; numbers the event loops. One without a client is left
/// out, and prefill is the work of a pod's first.
pub(super) fn spread(pods: Vec<Assignment>, threads: u32) -> Vec<Assignment> {
    let mut all: Vec<Assignment> = pods
        .into_iter()
        .flat_map(|pod| deal(pod, threads))
        .collect();
    for (assignment, number) in all.iter_mut().zip(0..) {
        assignment.worker = number;
    }
    all
}

fn deal(mut pod: Assignment, threads: u32) -> Vec<Assignment> {
    let publishers = mem::take(&mut pod.publishers);
    let subscribers = mem::take(&mut pod.subscribers);
    let prefill = pod.prefill.take();
    let after = publishers.len();
    let clients = after + subscribers.len();
    let loops = (threads as usize).min(clients).max(1);
    let mut dealt = vec![pod; loops];
    for (i, publisher) in publishers.into_iter().enumerate() {
        dealt[i % loops].publishers.push(publisher);
    }
    for (i, subscriber) in (after..).zip(subscribers) {
        dealt[i % loops].subscribers.push(subscriber);
    }
    for (i, assignment) in dealt.iter_mut().enumerate() {
        assignment.connections = assignment.connections.map(|connections| {
            let of_loop = share(u64::from(connections), loops as u64, i as u64);
            // Never more than there were.
            (of_loop as u32).max(1)
        });
    }
    dealt[0].prefill = prefill;
    dealt
}
