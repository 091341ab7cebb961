//! The real `gatectl` as a process.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use regex::Regex;
use tokio::sync::mpsc;

use super::{DEADLINE, within};

/// What a run of `gatectl` left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// stdout; a panic with everything unless the run ended with this code.
    pub fn expect(self, code: i32) -> String {
        self.check(code).stdout
    }

    /// stderr; a panic with everything unless the run ended with this code.
    pub fn expect_stderr(self, code: i32) -> String {
        self.check(code).stderr
    }

    fn check(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// Runs it in a folder to its end.
pub async fn gatectl(folder: &Path, args: &[&str], stdin: &str) -> Output {
    gatectl_with_env(folder, args, stdin, &[]).await
}

/// The same with further variables in its environment.
pub async fn gatectl_with_env(folder: &Path, args: &[&str], stdin: &str, env: &[(&str, &str)]) -> Output {
    let mut child =
        command(folder).envs(env.iter().copied()).args(args).stdin(Stdio::piped()).spawn().expect("gatectl starts");
    let stdin_bytes = stdin.as_bytes().to_vec();
    let mut pipe = child.stdin.take().expect("stdin");
    // Whoever does not read stdin closes it.
    thread::spawn(move || {
        let _ = pipe.write_all(&stdin_bytes);
    });
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = within("gatectl", ended).await.expect("a thread").expect("gatectl ends");
    Output {
        code: output.status.code().expect("an exit code"),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Text without what differs from run to run: ports, times, the folder of the test.
pub fn masked(text: &str, folder: &Path) -> String {
    let text = text.replace(&folder.display().to_string(), "FOLDER");
    let mut text = text.to_owned();
    for (pattern, mask) in [
        (r"(127\.0\.0\.1|localhost):\d+", "$1:PORT"),
        (r"\bjust now\b|\b\d+[smhd] ago\b", "WHEN"),
        (r"\b\d+ ms\b", "N ms"),
        (r"(?m)[ \t]+$", ""),
    ] {
        text = Regex::new(pattern).expect("a regex").replace_all(&text, mask).into_owned();
    }
    // Masks are not as wide as what they hide, so columns no longer align.
    Regex::new(r"(\S) {2,}").expect("a regex").replace_all(&text, "$1  ").into_owned()
}

/// A running `gatectl`; killed when it is dropped.
pub struct Process {
    child: Child,
    stdout: mpsc::UnboundedReceiver<String>,
    stderr: mpsc::UnboundedReceiver<String>,
}

impl Process {
    /// Starts it in a folder.
    pub fn start(folder: &Path, args: &[&str]) -> Self {
        let mut child = command(folder).args(args).stdin(Stdio::null()).spawn().expect("gatectl starts");
        let stdout = lines(child.stdout.take().expect("stdout"));
        let stderr = lines(child.stderr.take().expect("stderr"));
        Self { child, stdout, stderr }
    }

    /// The next line of its data; a panic with its messages if it ends instead.
    pub async fn line(&mut self) -> String {
        if let Some(line) = within("a line of data", self.stdout.recv()).await {
            return line;
        }
        let mut messages = String::new();
        while let Some(line) = self.stderr.recv().await {
            messages.push_str(&line);
            messages.push('\n');
        }
        panic!("gatectl ended:\n{messages}");
    }

    /// Reads messages until one has this in it; returns all of them.
    pub async fn message(&mut self, part: &str) -> String {
        let mut messages = String::new();
        while !messages.contains(part) {
            let line = within(&format!("a message with {part:?}"), self.stderr.recv()).await;
            let line = line.unwrap_or_else(|| panic!("gatectl ended without {part:?}:\n{messages}"));
            messages.push_str(&line);
            messages.push('\n');
        }
        messages
    }

    /// Sends Ctrl-C and returns the exit code.
    pub async fn interrupt(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status().expect("kill runs");
        assert!(sent.success());
        let wait = async {
            // It closes its stdout with its end, or a little before.
            while self.stdout.recv().await.is_some() {}
            loop {
                match self.child.try_wait().expect("a status") {
                    Some(status) => return status.code(),
                    None => tokio::task::yield_now().await,
                }
            }
        };
        within("the end of gatectl", wait).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `gatectl dev`.
pub struct Dev {
    process: Process,
    /// What it printed until it served.
    pub table: String,
}

impl Dev {
    /// Starts it on free ports in a folder; returns when it says that it serves.
    pub async fn start(folder: &Path, args: &[&str]) -> Self {
        let ports = ["--listen", "--admin-listen", "--grpc-listen", "--http-listen"].map(|flag| [flag, "127.0.0.1:0"]);
        let args = [&["dev", "--workers", "2"], ports.concat().as_slice(), args].concat();
        let mut dev = Self { process: Process::start(folder, &args), table: String::new() };
        while !dev.table.contains("  try  ") {
            let line = dev.process.line().await;
            dev.table.push_str(&line);
            dev.table.push('\n');
        }
        dev
    }

    /// The address in the line of the table that begins with this.
    pub fn addr(&self, what: &str) -> SocketAddr {
        let pattern = format!(r"(?m)^ +{} +http://(127\.0\.0\.1:\d+)", regex::escape(what));
        let found = Regex::new(&pattern).expect("a regex").captures(&self.table);
        found.unwrap_or_else(|| panic!("no {what} in:\n{}", self.table))[1].parse().expect("an address")
    }

    /// The rest of the line of the table that begins with this.
    pub fn place(&self, what: &str) -> String {
        let line = self.table.lines().find_map(|line| line.trim().strip_prefix(what));
        line.unwrap_or_else(|| panic!("no {what} in:\n{}", self.table)).trim().to_owned()
    }

    /// The command that the table says to try.
    pub fn request_to_try(&self) -> String {
        self.place("try  ")
    }

    /// Reads messages until one has this in it; returns all of them.
    pub async fn message(&mut self, part: &str) -> String {
        self.process.message(part).await
    }

    /// Sends Ctrl-C and returns the exit code.
    pub async fn interrupt(self) -> Option<i32> {
        self.process.interrupt().await
    }
}

fn lines(pipe: impl Read + Send + 'static) -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatectl"));
    command.current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RUSTYGATE_") {
            command.env_remove(name);
        }
    }
    command.env("USER", "tester").env("NO_COLOR", "1");
    debug_assert!(DEADLINE.as_secs() > 10, "longer than what gatectl itself waits for");
    command
}

#[test]
fn masks_hide_what_differs_and_nothing_else() {
    let text = "at http://127.0.0.1:4711   3m ago  12 ms  /tmp/x/a.yaml 13   \n";
    assert_eq!(masked(text, Path::new("/tmp/x")), "at http://127.0.0.1:PORT  WHEN  N ms  FOLDER/a.yaml 13\n");
}

/// Every file below a folder that has one of the lines in it.
pub fn files_with(folder: &Path, lines: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_with(&path, lines));
            continue;
        }
        let bytes = std::fs::read(&path).expect("a file");
        let has = |line: &String| bytes.windows(line.len()).any(|window| window == line.as_bytes());
        if lines.iter().any(has) {
            found.push(path.file_name().expect("a name").to_string_lossy().into_owned());
        }
    }
    found
}
