//! What streams, buckets and subjects of a trial are called, as `docs/FORMAT.md` says.

use super::super::model::{CellSpec, Layout, StreamKind};

pub(super) struct Names<'a> {
    pub(super) spec: &'a CellSpec,
    /// `<id>_t<trial>`
    pub(super) stem: String,
    /// `jsb.<id>.t<trial>`
    prefix: String,
}

impl<'a> Names<'a> {
    pub(super) fn new(spec: &'a CellSpec, run: u64, trial: u32) -> Self {
        let id = format!("{run:016x}")[..8].to_owned();
        Self {
            spec,
            stem: format!("{id}_t{trial}"),
            prefix: format!("jsb.{id}.t{trial}"),
        }
    }

    /// The stream of an app's type; a bucket's stream is named by the bucket.
    pub(super) fn stream(&self, app: u32, kind: u32) -> String {
        match (&self.spec.stream.existing, self.spec.stream.kind) {
            (Some(existing), _) => existing.clone(),
            (None, StreamKind::Stream) => self.ours(app, kind),
            (None, StreamKind::Kv) => format!("KV_{}", self.ours(app, kind)),
        }
    }

    /// `JSB_<id>_t<trial>[_app<k>[_type<j>]]`: a stream or a bucket.
    fn ours(&self, app: u32, kind: u32) -> String {
        let stem = &self.stem;
        match self.spec.stream.layout {
            Layout::Shared => format!("JSB_{stem}"),
            Layout::PerApp => format!("JSB_{stem}_app{app}"),
            Layout::PerType => format!("JSB_{stem}_app{app}_type{kind}"),
        }
    }

    /// What the subjects of an app's type begin with.
    pub(super) fn root(&self, app: u32, kind: u32) -> String {
        match self.spec.stream.kind {
            StreamKind::Stream => self.prefix.clone(),
            StreamKind::Kv => format!("$KV.{}", self.ours(app, kind)),
        }
    }

    fn subject(&self, app: u32, kind: u32) -> String {
        match &self.spec.publish.subject {
            Some(subject) => subject.clone(),
            None => format!("{}.app{app}.type{kind}", self.root(app, kind)),
        }
    }

    /// The subjects of a publisher in the order in which it uses them.
    pub(super) fn subjects(&self, app: u32, publisher: u32) -> Vec<String> {
        let of_types: Vec<String> = (0..self.spec.workload.types)
            .map(|kind| self.subject(app, kind))
            .collect();
        let Some(keys) = self.spec.workload.keys else {
            return of_types;
        };
        let of_key = |key| {
            let subjects = of_types.iter();
            subjects.map(move |subject| format!("{subject}.p{publisher}.k{key}"))
        };
        (0..keys).flat_map(of_key).collect()
    }

    /// All subjects of an app's type.
    pub(super) fn of_type(&self, app: u32, kind: u32) -> String {
        let subject = self.subject(app, kind);
        match self.spec.workload.keys {
            Some(_) => format!("{subject}.>"),
            None => subject,
        }
    }

    /// All subjects of an app, where one stream has them all.
    pub(super) fn of_app(&self, app: u32) -> String {
        format!("{}.app{app}.>", self.root(app, 0))
    }

    /// The streams an app's messages are in, each with the filter that selects the app there; with a
    /// stream for each type, in the order of the types.
    pub(super) fn sources(&self, app: u32) -> Vec<(String, String)> {
        if self.spec.stream.existing.is_some() {
            return vec![(self.stream(app, 0), self.subject(app, 0))];
        }
        match self.spec.stream.layout {
            Layout::Shared | Layout::PerApp => vec![(self.stream(app, 0), self.of_app(app))],
            Layout::PerType => (0..self.spec.workload.types)
                .map(|kind| (self.stream(app, kind), self.of_type(app, kind)))
                .collect(),
        }
    }

    /// The subjects of an app that hold a message of the prefill, of one type where each type has a
    /// stream.
    pub(super) fn filled(&self, app: u32, kind: u32) -> Vec<String> {
        let load = &self.spec.workload;
        let publishers = load.pods * load.publishers;
        let held = usize::try_from(load.prefill).unwrap_or(usize::MAX);
        // All types take their turn before the first comes again.
        let (skip, step) = match self.spec.stream.layout {
            Layout::PerType => (kind, load.types),
            Layout::Shared | Layout::PerApp => (0, 1),
        };
        (0..load.pods)
            .filter(|pod| pod % load.apps == app)
            .flat_map(|pod| {
                let subjects = self.subjects(app, publishers + pod).into_iter();
                subjects
                    .take(held)
                    .skip(skip as usize)
                    .step_by(step as usize)
            })
            .collect()
    }
}
