//! The two ways in which jsbench cannot do what it was asked to: the caller's doing, or the
//! environment's. Everything else travels as `anyhow::Error`; `cli` turns it into an exit code.

/// An error whose kind decides the exit code of the process.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or the scenario is wrong: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The environment refused: no server, no disk, no rights, a defect of ours. Exit code 1.
    #[error("{0}")]
    Environment(String),
}

impl Failure {
    /// The process exit code this failure stands for.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Environment(_) => 1,
        }
    }
}

/// A [`Failure::Usage`] as `anyhow::Error`.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    Failure::Usage(message.into()).into()
}

/// A [`Failure::Environment`] as `anyhow::Error`.
pub fn environment(message: impl Into<String>) -> anyhow::Error {
    Failure::Environment(message.into()).into()
}
