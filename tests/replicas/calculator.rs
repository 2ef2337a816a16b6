//! The autoscaler's own calculator and clients, in a program that stays (`tests/kubernetes/replicas`).

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde::Deserialize;
use serde_json::{Value, json};

/// The program; ended by SIGKILL when dropped.
pub(crate) struct Calculator {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    replicas: Option<Wanted>,
    items: Option<Vec<Item>>,
    error: Option<Failure>,
}

/// What the calculator says.
#[derive(Debug, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) replicas: i32,
    pub(crate) usage: i64,
    pub(crate) utilization: i64,
}

/// A pod, a node, or a value of a metric.
#[derive(Debug, Deserialize)]
pub(crate) struct Item {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Seconds.
    pub(crate) window: f64,
    /// By container; a node's and a value have no name.
    pub(crate) usage: BTreeMap<String, Used>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Used {
    /// Nanocores.
    pub(crate) cpu: i64,
    /// Bytes.
    pub(crate) memory: i64,
    /// In parts of a thousand.
    pub(crate) value: i64,
}

/// An error as the clients take it.
#[derive(Debug, Deserialize)]
pub(crate) struct Failure {
    pub(crate) text: String,
    /// Of the `Status` that the API answered with.
    pub(crate) reason: String,
    /// What `apierrors.IsNotFound` says of it.
    pub(crate) not_found: bool,
}

impl Calculator {
    pub(crate) fn start(adapter: SocketAddr) -> Self {
        let program = std::env::var_os("PODMETER_REPLICAS").unwrap_or_else(|| {
            panic!("`cargo xtask test` builds the program; or set PODMETER_REPLICAS to its path")
        });
        let mut command = Command::new(program);
        command.arg(format!("http://{adapter}")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program");
        let (questions, answers) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, questions, answers: BufReader::new(answers) }
    }

    fn ask(&mut self, question: &Value) -> Result<Answer, Failure> {
        writeln!(self.questions, "{question}").expect("the program reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the program answers");
        let answer: Answer = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        match answer.error {
            Some(failure) => Err(failure),
            None => Ok(answer),
        }
    }

    /// How many replicas there should be.
    pub(crate) fn scale(&mut self, question: &Value) -> Result<Wanted, Failure> {
        self.ask(question).map(|answer| answer.replicas.expect("a number"))
    }

    /// The pods of a namespace, or of all; by labels, by fields, or one by its name.
    pub(crate) fn pods(&mut self, namespace: &str, of: &Selection<'_>) -> Result<Vec<Item>, Failure> {
        let Selection { name, labels, fields } = of;
        self.list(
            &json!({"pods": {"namespace": namespace, "name": name, "labels": labels, "fields": fields}}),
        )
    }

    /// The nodes, in the same way.
    pub(crate) fn nodes(&mut self, of: &Selection<'_>) -> Result<Vec<Item>, Failure> {
        let Selection { name, labels, fields } = of;
        self.list(&json!({"nodes": {"name": name, "labels": labels, "fields": fields}}))
    }

    /// A metric of pods with these labels, together.
    pub(crate) fn external(
        &mut self,
        namespace: &str,
        metric: &str,
        labels: &str,
    ) -> Result<Vec<Item>, Failure> {
        self.list(&json!({"external": {"namespace": namespace, "metric": metric, "labels": labels}}))
    }

    fn list(&mut self, question: &Value) -> Result<Vec<Item>, Failure> {
        self.ask(question).map(|answer| answer.items.expect("a list"))
    }
}

impl Drop for Calculator {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Which pods or nodes; all of them by default.
#[derive(Default)]
pub(crate) struct Selection<'a> {
    pub(crate) name: &'a str,
    pub(crate) labels: &'a str,
    pub(crate) fields: &'a str,
}
