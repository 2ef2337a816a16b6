//! What the API server says, one answer after the other, over one connection that stays.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use serde_json::Value;

use super::Cluster;

/// An answer, and when it came.
pub type Answer = (Instant, Value);

/// Answers that come by themselves; ended when dropped.
#[derive(Debug)]
pub struct Following {
    curl: Child,
    answers: Arc<Mutex<Vec<Answer>>>,
}

impl Cluster {
    /// Asks for what is at a path, so many times a second.
    pub fn ask_again(&self, path: &str, per_second: u32) -> Following {
        // What follows the # is not sent, and makes as many questions of it as anyone has time for.
        self.follow(&format!("{path}#[1-1000000]"), &["--rate", &format!("{per_second}/s")])
    }

    /// Watches what is at a path: an answer for each change.
    pub fn watch(&self, path: &str) -> Following {
        self.follow(&format!("{path}?watch=true"), &["--globoff"])
    }

    fn follow(&self, path: &str, flags: &[&str]) -> Following {
        let mut command = Command::new("curl");
        command.args(["--silent", "--no-buffer", "--noproxy", "*", "--cacert"]).arg(self.authority());
        command.args(["--header", &format!("Authorization: Bearer {}", self.administrator())]);
        // The API server breaks lines for a person at curl. An answer without an end of its line has one then.
        command.args(["--user-agent", "podmeter-tests"]);
        command.args(["--write-out", "\n"]).args(flags).arg(format!("https://127.0.0.1:{}{path}", self.port));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut curl = child.expect("curl");
        let output = BufReader::new(curl.stdout.take().expect("piped"));
        let answers: Arc<Mutex<Vec<Answer>>> = Arc::default();
        let own = Arc::clone(&answers);
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok).filter(|line| !line.is_empty()) {
                let answer = serde_json::from_str(&line).unwrap_or(Value::Null);
                lock(&own).push((Instant::now(), answer));
            }
        });
        Following { curl, answers }
    }
}

impl Following {
    /// The answers so far, the first of the first.
    pub fn answers(&self) -> MutexGuard<'_, Vec<Answer>> {
        lock(&self.answers)
    }
}

fn lock(answers: &Mutex<Vec<Answer>>) -> MutexGuard<'_, Vec<Answer>> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Following {
    fn drop(&mut self) {
        _ = self.curl.kill();
        _ = self.curl.wait();
    }
}
