//! Processes under test: started pinned, measured from `/proc`, stopped with all that they started.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{net::TcpStream, time::Instant};

/// How long a process may take to listen.
const START_MAX: Duration = Duration::from_secs(20);
/// How long a process may take to stop before it is killed.
const STOP_MAX: Duration = Duration::from_secs(3);

/// A running process and all its descendants; dropping it stops them.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
}

/// CPU time by thread. Threads that ended between two readings are not counted; none of the proxies ends any under load.
#[derive(Clone, Debug, Default)]
pub struct Cpu(BTreeMap<(u32, u32), u64>);

impl Cpu {
    /// Time spent since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Duration {
        let spent = |(thread, ns): (&(u32, u32), &u64)| ns.saturating_sub(earlier.0.get(thread).copied().unwrap_or(0));
        Duration::from_nanos(self.0.iter().map(spent).sum())
    }
}

impl Process {
    /// Starts `command` on the given cores ("0", "1-3"); what it prints goes to `output`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(name: &str, command: &Command, cores: &str, output: &Path) -> anyhow::Result<Self> {
        let file = fs::File::options()
            .create(true)
            .append(true)
            .open(output)
            .with_context(|| format!("cannot write {}", output.display()))?;
        let mut pinned = Command::new("taskset");
        pinned.arg("-c").arg(cores).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => pinned.env(key, value),
                None => pinned.env_remove(key),
            };
        }
        let child = pinned
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name} (is taskset of util-linux installed?)"))?;
        Ok(Self { name: name.to_owned(), child, output: output.to_owned() })
    }

    /// Returns when the process accepts connections there.
    ///
    /// # Errors
    /// If it ends or takes too long; with what it printed last.
    pub async fn wait_until_open(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let opened = wait_until_open(address).await;
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}: {}", self.name, self.last_output());
        }
        opened.with_context(|| format!("{} does not listen: {}", self.name, self.last_output()))
    }

    /// The end of what it printed.
    #[must_use]
    pub fn last_output(&self) -> String {
        let mut text = String::new();
        let read = fs::File::open(&self.output).and_then(|file| file.take(1 << 20).read_to_string(&mut text));
        if read.is_err() || text.trim().is_empty() {
            return "it printed nothing".to_owned();
        }
        let lines: Vec<_> = text.trim_end().lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// Forgets what it printed, so that an access log does not fill the disk.
    pub fn discard_output(&self) {
        // Opened for appending, so it goes on at the new end. That the disk fills is then the only harm.
        let _ = fs::File::options().write(true).open(&self.output).and_then(|file| file.set_len(0));
    }

    /// CPU time until now of the process and all its descendants.
    ///
    /// # Errors
    /// If the kernel does not account for it.
    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        let mut cpu = Cpu::default();
        for pid in tree(self.child.id()) {
            for thread in numbered(&format!("/proc/{pid}/task")) {
                // A thread that has just ended has no file; a kernel without the file has none for any.
                if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")) {
                    cpu.0.insert((pid, thread), on_cpu_ns(&text)?);
                }
            }
        }
        if cpu.0.is_empty() {
            bail!("{} is gone, or this kernel has no /proc/PID/schedstat: {}", self.name, self.last_output());
        }
        Ok(cpu)
    }

    /// Forgets the peak of resident memory.
    pub fn reset_peak_memory(&self) {
        for pid in tree(self.child.id()) {
            // Without the right to do so the peak is that of the whole run.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }

    /// Resident memory now, in bytes, summed over the processes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.sum_of_status("VmRSS:")
    }

    /// Memory now, in bytes, summed over the processes; what some of them share is counted once.
    ///
    /// # Errors
    /// If the kernel does not tell: it tells root and the user that they run as.
    pub fn proportional_memory(&self) -> anyhow::Result<u64> {
        let of = |pid| {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            status_bytes(&text, "Pss:").with_context(|| format!("no Pss in {path}"))
        };
        tree(self.child.id()).into_iter().map(of).sum()
    }

    /// Peak of resident memory since the last reset, in bytes, summed over the processes.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        self.sum_of_status("VmHWM:")
    }

    fn sum_of_status(&self, field: &str) -> u64 {
        tree(self.child.id())
            .into_iter()
            .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok())
            .filter_map(|status| status_bytes(&status, field))
            .sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pids = tree(self.child.id());
        signal("TERM", &pids[..1]);
        let mut waited = Duration::ZERO;
        while waited < STOP_MAX && matches!(self.child.try_wait(), Ok(None)) {
            let pause = Duration::from_millis(20);
            thread::sleep(pause);
            waited += pause;
        }
        // Whatever is left, its children too: a master that is killed would leave them behind.
        let left: Vec<_> = pids.into_iter().filter(|&pid| pid != self.child.id() && is_alive(pid)).collect();
        signal("KILL", &left);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of this process until now; single-threaded processes only.
///
/// # Errors
/// If the kernel does not account for it.
pub fn own_cpu() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/self/schedstat").context("this kernel has no /proc/self/schedstat")?;
    Ok(Duration::from_nanos(on_cpu_ns(&text)?))
}

/// CPU time of the whole machine until now, by whatever, to the hundredth of a second.
///
/// # Errors
/// If the kernel does not account for it.
pub fn machine_cpu() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("no /proc/stat")?;
    busy_ticks(&text).map(|ticks| Duration::from_millis(ticks * 10)).context("unreadable /proc/stat")
}

/// CPU time of the children of this process that have ended, to the hundredth of a second.
///
/// # Errors
/// If the kernel does not account for it.
pub fn children_cpu() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/self/stat").context("no /proc/self/stat")?;
    children_ticks(&text).map(|ticks| Duration::from_millis(ticks * 10)).context("unreadable /proc/self/stat")
}

/// Lets this process, and what it starts, open as many files as it may; says how many that is.
///
/// # Errors
/// If the kernel refuses.
pub fn raise_open_files() -> anyhow::Result<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files to the hard limit")?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Addresses on the loopback interface that nobody uses now; all at once, so that they differ.
///
/// # Errors
/// If there are none.
pub fn free_addresses<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    let bound: Vec<_> = (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addresses: Vec<_> = bound.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    addresses.try_into().ok().context("as many as were bound")
}

/// Returns when something accepts connections there.
///
/// # Errors
/// If nothing does in time.
pub async fn wait_until_open(address: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_MAX;
    while Instant::now() < deadline {
        if TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("nothing listens on {address} after {} s", START_MAX.as_secs())
}

/// Where a program is: the file that the variable names, or the first of that name in PATH and the folders of daemons.
#[must_use]
pub fn find_program(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// A process and its descendants, itself first.
fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> =
        numbered("/proc").into_iter().filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| child));
        next += 1;
    }
    found
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "PID (NAME) STATE PARENT ...", and NAME may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn numbered(folder: &str) -> BTreeSet<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn on_cpu_ns(schedstat: &str) -> anyhow::Result<u64> {
    schedstat.split_whitespace().next().and_then(|field| field.parse().ok()).context("unreadable schedstat")
}

fn busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    // user nice system idle iowait irq softirq steal; what follows is within user and nice.
    let [user, nice, system, _, _, irq, softirq, steal, ..] = ticks[..] else { return None };
    Some(user + nice + system + irq + softirq + steal)
}

fn children_ticks(stat: &str) -> Option<u64> {
    // After "PID (NAME)" come the fields from the third on; the 16th and 17th are times of children, user and system.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(13);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn status_bytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Through the shell, because sending a signal is not in the standard library.
fn signal(name: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
    let script = format!("kill -{name} {}", pids.join(" "));
    let _ = Command::new("sh").arg("-c").arg(script).stderr(Stdio::null()).status();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_a_process_stops_its_children_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        // The parent ignores TERM, so both must be killed.
        command.arg("-c").arg("trap '' TERM; sleep 600 & echo started; wait; sleep 600");
        let output = folder.path().join("output");
        let process = Process::start("sh", &command, "0", &output).expect("sh starts");
        let pids = loop {
            let pids = tree(process.child.id());
            if pids.len() == 2 && fs::read_to_string(&output).is_ok_and(|text| text.contains("started")) {
                break pids;
            }
            thread::sleep(Duration::from_millis(5));
        };
        drop(process);
        // Who is killed and not our own child may take a moment to be gone.
        let begun = Instant::now();
        while pids.iter().any(|&pid| is_alive(pid) && state_of(pid) != Some('Z')) {
            assert!(begun.elapsed() < STOP_MAX, "one of {pids:?} still runs");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn state_of(pid: u32) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.trim_start().chars().next()
    }

    #[test]
    fn cpu_is_the_difference_thread_by_thread() {
        let before = Cpu(BTreeMap::from([((1, 1), 100), ((1, 2), 50)]));
        let after = Cpu(BTreeMap::from([((1, 1), 400), ((1, 3), 7)]));
        assert_eq!(after.since(&before), Duration::from_nanos(307));
    }

    #[test]
    fn kernel_files_are_read() {
        assert_eq!(on_cpu_ns("943804615 1143216 64\n").ok(), Some(943_804_615));
        assert_eq!(busy_ticks("cpu  1 2 3 400 500 6 7 8 0 0\ncpu0 9 9 9 9 9 9 9 9 9 9\n"), Some(27));
        assert_eq!(status_bytes("VmPeak:\t 9 kB\nVmHWM:\t    3872 kB\n", "VmHWM:"), Some(3872 << 10));
        assert_eq!(status_bytes("Rss:  9 kB\nPss:  7 kB\nPss_Anon:  5 kB\n", "Pss:"), Some(7 << 10));
        assert_eq!(children_ticks("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 40 2 20 0 1\n"), Some(42));
        assert_eq!(parent_of(std::process::id()), Some(std::os::unix::process::parent_id()));
    }
}
