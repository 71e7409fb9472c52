//! Rows of the fault matrix that a process alone can show, each a test named after its row.

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::process::{Ended, Running, run};
use super::transfer::{BYTES, Site, bytes_done, noise, same};

const SLOW: &[&str] = &["--rate-max", "40mbit"];

fn arrived(site: &Site, ended: &Ended) -> bool {
    ended.code == Some(0) && has_arrived(site)
}

fn has_arrived(site: &Site) -> bool {
    same(&site.path("tree/a/b/large"), &site.path("into/a/b/large"))
}

/// The head is gone for good: the node waits, says what it lacks and why, and keeps what it has.
#[test]
fn row_23_head_gone_for_good() {
    let site = Site::new();
    let token = site.publish();
    let head = site.serve(SLOW);
    let more = ["--json-lines", "--deadline", "6s"];
    let mut node = Running::start(site.receive("t", &token, &more));
    node.says(|said| bytes_done(said) > BYTES as u64 / 4);
    head.signal(Signal::KILL);
    drop(head);
    let ended = node.ends();
    assert_eq!(ended.code, Some(6), "{ended:?}");
    assert!(
        ended.stderr.contains("pieces are missing"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("127.0.0.1"),
        "the source is named: {}",
        ended.stderr
    );
    assert!(site.path("into/.flashover").exists(), "what it has is kept");
    let _head = site.serve(&[]);
    let ended = run(site.receive("t", &token, &["--json"]));
    assert!(arrived(&site, &ended), "{ended:?}");
    let resumed = ended.json()["shares"]["resume"].as_u64().unwrap();
    assert!(resumed > BYTES as u64 / 4, "{resumed}");
}

/// The head comes back with another disk and another key. A node that knows the old one takes
/// nothing from it, says so, and keeps what it has; with the new head's token it goes on.
#[test]
fn row_23_head_with_a_new_key() {
    let site = Site::new();
    let token = site.publish();
    let head = site.serve(SLOW);
    let mut node = Running::start(site.receive("t", &token, &["--json-lines"]));
    node.says(|said| bytes_done(said) > BYTES as u64 / 4);
    head.signal(Signal::KILL);
    drop(head);
    fs::rename(site.path("store"), site.path("lost")).unwrap();
    let new_token = site.publish_tree(&[]);
    let _head = site.serve(SLOW);
    let ended = node.ends();
    assert_eq!(ended.code, Some(5), "{ended:?}");
    let told = "has not the key that the token names";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
    assert!(site.path("into/.flashover").exists(), "what it has is kept");
    let ended = run(site.receive("t", &new_token, &["--json"]));
    assert!(arrived(&site, &ended), "{ended:?}");
    let resumed = ended.json()["shares"]["resume"].as_u64().unwrap();
    assert!(resumed > BYTES as u64 / 4, "{resumed}");
}

/// Killed again and again at any moment, a node never fetches again what it said that it has, nor
/// what was on its disk. Of the rest it loses what it was gathering, a few pieces.
#[test]
fn row_24_killed_at_any_moment() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seed = number("FLASHOVER_SEED").unwrap_or(24);
    let is_nightly = std::env::var_os("FLASHOVER_NIGHTLY").is_some();
    let kills = if is_nightly { 100 } else { 14 };
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut dice = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let site = Site::new();
    site.make_tree();
    let token = site.publish_tree(&["--piece-size", "64k"]);
    let _head = site.serve(&["--rate-max", "30mbit"]);
    let bundle = fs::read(site.path("store/bundles/t-1.tar.zst")).unwrap();
    let (mut kept, mut fetched_again, mut attempts) = (0, 0, 0);
    for kill in 0..kills {
        let node = Running::start(site.receive("t", &token, &["--json-lines"]));
        // From the first instructions on to some while of receiving, or of what follows it.
        std::thread::sleep(Duration::from_micros(dice(700_000)));
        node.signal(Signal::KILL);
        let ended = node.ends();
        if ended.code == Some(0) {
            kept = 0;
            fs::remove_dir_all(site.path("into")).unwrap();
            continue;
        }
        let told = receiving(&ended.stdout);
        if let Some(&resumed) = told.first() {
            attempts += 1;
            fetched_again += kept - kept.min(resumed);
        }
        let part = site.path("into/.flashover/t-1.part");
        let last = told.last().copied().unwrap_or(0);
        if last == bundle.len() as u64 && !part.exists() {
            // It had done all and tidied up, and was killed as it ended.
            assert!(has_arrived(&site), "seed {seed}, kill {kill}");
            kept = 0;
            fs::remove_dir_all(site.path("into")).unwrap();
            continue;
        }
        let on_disk = right_on_disk(&bundle, &part);
        assert!(
            on_disk >= last,
            "seed {seed}, kill {kill}: {last} told, {on_disk} there"
        );
        assert!(
            on_disk >= kept,
            "seed {seed}, kill {kill}: {kept} fell to {on_disk}"
        );
        kept = on_disk;
    }
    println!("{attempts} of {kills} were killed while receiving; {fetched_again} fetched again");
    assert!(attempts >= 3, "killed while it receives, {attempts} times");
    let ended = run(site.receive("t", &token, &["--json"]));
    assert!(arrived(&site, &ended), "seed {seed}: {ended:?}");
    let resumed = ended.json()["shares"]["resume"].as_u64().unwrap();
    fetched_again += kept - kept.min(resumed);
    assert!(
        fetched_again * 100 <= bundle.len() as u64,
        "seed {seed}: {fetched_again} of {} were fetched again",
        bundle.len()
    );
}

/// Bytes of the pieces of 64 KiB that are right in a store.
fn right_on_disk(bundle: &[u8], part: &Path) -> u64 {
    let Ok(part) = fs::read(part) else {
        return 0;
    };
    let pieces = bundle.chunks(64 << 10).zip(part.chunks(64 << 10));
    let right = pieces.filter(|(wanted, found)| wanted == found);
    right.map(|(wanted, _)| wanted.len() as u64).sum()
}

/// Bytes done while pieces arrived, as they were told.
fn receiving(said: &str) -> Vec<u64> {
    let mut phase = String::new();
    let mut done = Vec::new();
    for event in said
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
    {
        if let Some(name) = event["phase"].as_str() {
            name.clone_into(&mut phase);
        }
        if phase == "receiving" {
            done.extend(event["bytes_done"].as_u64());
        }
    }
    done
}

/// A site where a file is cast to whoever catches it.
fn cast(site: &Site, more: &[&str]) -> (String, Running) {
    let source = site.path("source");
    fs::write(&source, noise(BYTES)).unwrap();
    let token = site.good(&["token", "create", "--offline"]).stdout;
    let mut command = site.command(&["cast", "-q"]);
    command
        .args(more)
        .arg(&source)
        .env("FLASHOVER_TOKEN", token.trim());
    (token.trim().to_owned(), Running::start(command))
}

fn catch(site: &Site, token: &str) -> Running {
    let mut command = site.command(&["catch", "--json-lines"]);
    command
        .arg(site.path("caught"))
        .env("FLASHOVER_TOKEN", token);
    Running::start(command)
}

/// A write that went elsewhere: what is read back is wrong, is fetched again, and is told.
#[test]
fn row_26_misdirected_write() {
    let site = Site::new();
    let (token, _head) = cast(&site, SLOW);
    let mut node = catch(&site, &token);
    node.says(|said| bytes_done(said) > 4 << 20);
    let part = fs::OpenOptions::new()
        .write(true)
        .open(site.path("caught.part"))
        .unwrap();
    part.write_all_at(&[0x5a; 4096], (1 << 20) + 77).unwrap();
    let ended = node.ends();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(same(&site.path("source"), &site.path("caught")));
    let told = "1 pieces changed on disk after they were written (bytes 1048576 to 2097152)";
    assert!(ended.stdout.contains(told), "{}", ended.stdout);
}

/// A disk that loses the same place again and again: the node fails and names the place.
#[test]
fn row_26_disk_that_keeps_losing_writes() {
    let site = Site::new();
    let (token, _head) = cast(&site, SLOW);
    let mut node = catch(&site, &token);
    node.says(|said| bytes_done(said) > 4 << 20);
    let part = fs::OpenOptions::new()
        .write(true)
        .open(site.path("caught.part"))
        .unwrap();
    let over = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in (0..=u8::MAX).cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                part.write_all_at(&[turn; 16], 1 << 20).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let ended = node.ends();
        over.store(true, Ordering::Relaxed);
        ended
    });
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(
        ended.stderr.contains("bytes 1048576 to 2097152"),
        "{}",
        ended.stderr
    );
    assert!(
        !site.path("caught").exists(),
        "what is wrong gets no good name"
    );
}

/// A write that hit what was unpacked already: reading back finds it, and it is unpacked again.
#[test]
fn row_26_misdirected_write_into_the_target() {
    let site = Site::new();
    let token = site.publish();
    let _head = site.serve(SLOW);
    let mut node = Running::start(site.receive("t", &token, &["--json-lines"]));
    node.says(|said| bytes_done(said) > 6 << 20);
    let large = fs::OpenOptions::new()
        .write(true)
        .open(site.path("into/a/b/large"))
        .unwrap();
    large.write_all_at(&[0x5a; 4096], (1 << 20) + 77).unwrap();
    let ended = node.ends();
    assert!(arrived(&site, &ended), "{ended:?}");
    assert!(ended.stdout.contains("it is unpacked again"), "{ended:?}");
    let left = fs::read_dir(site.path("into")).unwrap().count();
    assert_eq!(left, 2, "no marker, no store");
}

/// A target that loses the same place again and again: the node fails and names the file.
#[test]
fn row_26_target_that_keeps_losing_writes() {
    let site = Site::new();
    let token = site.publish();
    let _head = site.serve(&[]);
    let over = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in (0..=u8::MAX).cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let mut options = fs::OpenOptions::new();
                if let Ok(large) = options.write(true).open(site.path("into/a/b/large")) {
                    // It may have been replaced meanwhile: then the next turn finds the new one.
                    drop(large.write_all_at(&[turn; 16], 1 << 20));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let ended = run(site.receive("t", &token, &["--json-lines"]));
        over.store(true, Ordering::Relaxed);
        ended
    });
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stderr.contains("a/b/large"), "{}", ended.stderr);
    let again = ended.stdout.matches("it is unpacked again").count();
    assert_eq!(again, 2, "{}", ended.stdout);
}

/// The bundle's name is given to another file while it is served: nodes get what was published.
#[test]
fn row_30_bundle_replaced_while_served() {
    let site = Site::new();
    let token = site.publish();
    let _head = site.serve(SLOW);
    let mut node = Running::start(site.receive("t", &token, &["--json-lines"]));
    node.says(|said| bytes_done(said) > BYTES as u64 / 4);
    let bundle = site.path("store/bundles/t-1.tar.zst");
    fs::write(site.path("other"), noise(BYTES / 2)).unwrap();
    fs::rename(site.path("other"), &bundle).unwrap();
    let ended = node.ends();
    assert!(arrived(&site, &ended), "{ended:?}");
}

/// The bundle itself is edited while it is served: what was edited is not sent, the node says who
/// has to look where, and goes on when it has been set right.
#[test]
fn row_30_bundle_edited_while_served() {
    let site = Site::new();
    site.make_tree();
    let token = site.publish_tree(&["--piece-size", "64k"]);
    let _head = site.serve(SLOW);
    let mut node = Running::start(site.receive("t", &token, &["--json-lines"]));
    node.says(|said| bytes_done(said) > BYTES as u64 / 4);
    let bundle = site.path("store/bundles/t-1.tar.zst");
    fs::set_permissions(&bundle, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options().read(true).write(true).open(&bundle);
    let file = file.unwrap();
    let mut published = [0; 4096];
    file.read_exact_at(&mut published, 10_000_000).unwrap();
    file.write_all_at(&[0x5a; 4096], 10_000_000).unwrap();
    let ended = node.ends();
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stderr.contains("image verify"), "{}", ended.stderr);
    let accused = ended.stdout.contains("false symbols");
    assert!(!accused, "the head sent nothing false: {}", ended.stdout);
    file.write_all_at(&published, 10_000_000).unwrap();
    let ended = run(site.receive("t", &token, &["--json"]));
    assert!(arrived(&site, &ended), "{ended:?}");
    let resumed = ended.json()["shares"]["resume"].as_u64().unwrap();
    assert!(resumed > BYTES as u64 / 2, "{resumed}");
}

/// A file that is edited while it is cast arrives as it was hashed, or not at all.
#[test]
fn row_30_file_edited_while_cast() {
    let site = Site::new();
    let (token, _head) = cast(&site, &["--rate-max", "20mbit"]);
    let mut node = catch(&site, &token);
    node.says(|said| bytes_done(said) > 0);
    let source = fs::OpenOptions::new().write(true).open(site.path("source"));
    source
        .unwrap()
        .write_all_at(&[0x5a; 4096], 11 << 20)
        .unwrap();
    let ended = node.ends();
    if ended.code == Some(0) {
        // What was edited had been read already.
        let caught = fs::read(site.path("caught")).unwrap();
        assert!(caught == noise(BYTES), "it is neither nor");
        return;
    }
    assert_eq!(ended.code, Some(4), "{ended:?}");
    let told = "is not what its manifest says";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
    assert!(!site.path("caught").exists());
}

/// Nodes whose clocks are decades off join and finish; the head's clock has nothing to say either.
#[test]
fn row_31_wrong_clocks() {
    let site = Site::new();
    let token = site.publish();
    let _head = site.serve(&[]);
    for (number, clock) in ["@1970-01-02 00:00:00", "@2099-12-31 23:59:59"]
        .into_iter()
        .enumerate()
    {
        let into = site.path(&format!("into{number}"));
        let mut command =
            site.command(&["receive", "t", "--head", "127.0.0.1", "--json", "--into"]);
        command.arg(&into).env("FLASHOVER_TOKEN", &token);
        command.env("LD_PRELOAD", faketime()).env("FAKETIME", clock);
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let ended = run(command);
        assert_eq!(ended.code, Some(0), "{clock}: {ended:?}");
        assert!(
            same(&site.path("tree/a/b/large"), &into.join("a/b/large")),
            "{clock}"
        );
    }
}

/// Debian's library that gives a process another clock.
fn faketime() -> String {
    let found = Command::new("sh")
        .args(["-c", "ls /usr/lib/*/faketime/libfaketime.so.1"])
        .output()
        .expect("sh starts");
    let path = String::from_utf8(found.stdout).expect("the path is text");
    let path = path.trim().to_owned();
    assert!(!path.is_empty(), "tools/test installs libfaketime");
    let year = Command::new("date")
        .arg("+%Y")
        .env("LD_PRELOAD", &path)
        .env("FAKETIME", "@1970-01-02 00:00:00")
        .output()
        .expect("date starts");
    assert_eq!(
        String::from_utf8_lossy(&year.stdout).trim(),
        "1970",
        "the library works here"
    );
    path
}

/// Where io_uring is forbidden, everything works by plain system calls, and `doctor` says so.
#[test]
fn row_33_no_io_uring() {
    let site = Site::new();
    let without = |arguments: &[&str]| {
        let mut command = site.command(arguments);
        let inner: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        let at = inner
            .iter()
            .position(|part| part == env!("CARGO_BIN_EXE_flashover"));
        let at = at.expect("the binary is in the line");
        let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/without-io-uring");
        let mut forbidden = Command::new(command.get_program());
        forbidden.args(&inner[..at]).arg(tool).args(&inner[at..]);
        forbidden.env("FLASHOVER_STORE", site.path("store"));
        command = forbidden;
        command
    };
    let token = site.publish();
    let doctor = run(without(&["doctor", "--engine"]));
    for found in ["uses plain", "plain tokio"] {
        assert!(doctor.stdout.contains(found), "{doctor:?}");
    }
    let mut serve = without(&["serve", "--json"]);
    serve.env_remove("FLASHOVER_TOKEN");
    let mut head = Running::start(serve);
    head.says(|said| said.ends_with("}\n"));
    let into = site.path("into");
    let mut receive = without(&["receive", "t", "--head", "127.0.0.1", "--json", "--into"]);
    receive.arg(&into).env("FLASHOVER_TOKEN", &token);
    let ended = run(receive);
    assert!(arrived(&site, &ended), "{ended:?}");
    assert_eq!(ended.json()["backend"], "plain", "{ended:?}");
}

/// Thousands of connections that say nothing: running transfers go on, and new nodes get in.
#[test]
fn row_34_half_open_connections() {
    let site = Site::new();
    let token = site.publish();
    let head = site.serve(SLOW);
    let mut first = Running::start(site.receive("t", &token, &["--json-lines"]));
    first.says(|said| bytes_done(said) > 1 << 20);
    let network = fs::File::open(format!("/proc/{}/ns/net", head.pid())).unwrap();
    let silent = std::thread::spawn(move || {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        use std::os::fd::AsFd as _;
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let mut open = Vec::new();
        let mut refused = 0;
        for number in 0..10_000_u32 {
            // From as many addresses as the loopback has, so that none stands out.
            let [.., high, low] = (number % 500).to_be_bytes();
            match connect([127, 9, high, low]) {
                Ok(stream) => open.push(stream),
                Err(_) => refused += 1,
            }
            if open.len() > 900 {
                open.drain(..450);
            }
        }
        (open, refused)
    });
    let ended = first.ends();
    assert!(arrived(&site, &ended), "{ended:?}");
    let (open, refused) = silent.join().unwrap();
    println!("{} stay open, {refused} were refused", open.len());
    fs::remove_dir_all(site.path("into")).unwrap();
    let ended = run(site.receive("t", &token, &["--json"]));
    assert!(
        arrived(&site, &ended),
        "with {} open: {ended:?}",
        open.len()
    );
    let cut = open.into_iter().filter(is_cut).count();
    assert!(cut > 0, "silence is not borne for ever");
}

fn connect(from: [u8; 4]) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&std::net::SocketAddr::from((from, 0)).into())?;
    let head = std::net::SocketAddr::from(([127, 0, 0, 1], 7081));
    socket.connect_timeout(&head.into(), Duration::from_millis(200))?;
    Ok(socket.into())
}

/// Whether the other side has ended it, within the handshake's deadline.
fn is_cut(mut stream: &TcpStream) -> bool {
    use std::io::ErrorKind::WouldBlock;
    stream
        .set_read_timeout(Some(Duration::from_millis(10)))
        .unwrap();
    !matches!(stream.read(&mut [0; 16]), Err(error) if error.kind() == WouldBlock)
}

/// An operator's abort leaves a target that is marked and taken up again; a second run on the same
/// target is refused, and the first goes on.
#[test]
fn row_44_abort_and_second_run() {
    let site = Site::new();
    let token = site.publish();
    let _head = site.serve(SLOW);
    let mut node = Running::start(site.receive("t", &token, &["--json-lines"]));
    node.says(|said| bytes_done(said) > BYTES as u64 / 4);
    let second = run(site.receive("t", &token, &["--json"]));
    assert_eq!(second.code, Some(8), "{second:?}");
    assert!(second.stderr.contains("Another process"), "{second:?}");
    assert!(node_runs(&mut node), "the first goes on");
    node.signal(Signal::INT);
    let ended = node.ends();
    assert_eq!(ended.code, Some(130), "{ended:?}");
    let marker: &Path = &site.path("into/.flashover");
    assert!(marker.exists(), "the target is marked as unfinished");
    let ended = run(site.receive("t", &token, &["--json"]));
    assert!(arrived(&site, &ended), "{ended:?}");
    assert!(!marker.exists());
}

fn node_runs(node: &mut Running) -> bool {
    let before = bytes_done(&node.said());
    node.says(|said| bytes_done(said) > before);
    true
}
