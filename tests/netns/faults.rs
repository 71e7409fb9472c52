//! One bad node never holds up the others, and every node's end is the truth. `SLOW` gives a
//! transfer a middle to interfere in.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::fleet::{CONTENT_BYTES, FLASHOVER, Fleet};
use super::lab::{HEAD, Lab, Setup, in_lab, noise};

const SLOW: Option<&str> = Some("50mbit");
const NODES: Setup = Setup {
    nodes: 3,
    loss_percent: 0.0,
};

#[test]
fn a_node_that_joins_at_half_time_gets_everything() {
    in_lab(NODES, |lab| {
        let fleet = Fleet::serve(lab, SLOW);
        let mut first = fleet.receive("node1");
        first.reaches(0.5);
        let late = fleet.receive(&lab.shell("lab_add_node"));
        first.succeeds();
        let receipt = late.succeeds();
        assert!(
            receipt.bytes_by("multicast") >= CONTENT_BYTES / 2,
            "{}",
            receipt.said
        );
    });
}

#[test]
fn a_killed_node_leaves_the_others_alone() {
    in_lab(NODES, |lab| {
        let fleet = Fleet::serve(lab, SLOW);
        let others = ["node1", "node2"].map(|node| fleet.receive(node));
        let mut victim = fleet.receive("node3");
        victim.reaches(0.5);
        victim.kill();
        for receiver in others {
            receiver.succeeds();
        }
    });
}

#[test]
fn a_killed_and_restarted_node_fetches_nothing_twice() {
    in_lab(NODES, |lab| {
        let fleet = Fleet::serve(lab, SLOW);
        let mut victim = fleet.receive("node1");
        victim.reaches(0.5);
        victim.kill();
        let receipt = fleet.receive("node1").succeeds();
        let [resumed, multicast, http] =
            ["resume", "multicast", "http"].map(|via| receipt.bytes_by(via));
        assert!(resumed >= CONTENT_BYTES * 4 / 10, "{}", receipt.said);
        assert!(
            multicast + http <= CONTENT_BYTES * 6 / 10,
            "{}",
            receipt.said
        );
    });
}

#[test]
fn a_node_without_multicast_finishes_over_http_and_says_so() {
    in_lab(NODES, |lab| {
        lab.shell("lab_filter_multicast node2");
        let fleet = Fleet::serve_no_swarm(lab, None);
        // No announcement reaches it either, so it is told where the head is.
        let head = HEAD.to_string();
        let filtered =
            fleet.receive_with("node2", &lab.scratch().join("node2"), &["--head", &head]);
        let others = ["node1", "node3"].map(|node| fleet.receive(node));
        for receiver in others {
            let receipt = receiver.succeeds();
            assert!(
                receipt.bytes_by("multicast") >= CONTENT_BYTES * 9 / 10,
                "{}",
                receipt.said
            );
        }
        let receipt = filtered.succeeds();
        assert_eq!(receipt.bytes_by("multicast"), 0, "{}", receipt.said);
        assert!(
            receipt.bytes_by("http") >= CONTENT_BYTES,
            "{}",
            receipt.said
        );
        assert!(receipt.warns_of("multicast"), "{}", receipt.said);
    });
}

#[test]
fn a_node_that_loses_multicast_half_way_finishes_over_http_and_says_so() {
    in_lab(NODES, |lab| {
        let fleet = Fleet::serve_no_swarm(lab, SLOW);
        let other = fleet.receive("node1");
        let mut filtered = fleet.receive("node2");
        filtered.reaches(0.5);
        lab.shell("lab_filter_multicast node2");
        let receipt = other.succeeds();
        assert!(
            receipt.bytes_by("multicast") >= CONTENT_BYTES * 9 / 10,
            "{}",
            receipt.said
        );
        let receipt = filtered.succeeds();
        assert!(
            receipt.bytes_by("http") >= CONTENT_BYTES / 10,
            "{}",
            receipt.said
        );
        assert!(receipt.warns_of("multicast"), "{}", receipt.said);
    });
}

#[test]
fn a_full_disk_fails_by_name_and_the_others_succeed() {
    in_lab(NODES, |lab| {
        let fleet = Fleet::serve(lab, None);
        let small = lab.scratch().join("small");
        lab.shell("cd $LAB_SCRATCH && mkdir small && mount -t tmpfs -o size=8m small small");
        let full = fleet.receive_with("node1", &small.join("tree"), &[]);
        let others = ["node2", "node3"].map(|node| fleet.receive(node));
        for receiver in others {
            receiver.succeeds();
        }
        let (code, said) = full.ends();
        assert_eq!(code, Some(7), "{said}");
        assert!(
            said.contains("No space left") || said.contains("room"),
            "{said}"
        );
    });
}

#[test]
fn row_29_a_rotten_bundle_is_named_and_nothing_false_is_sent() {
    in_lab(NODES, |lab| {
        let fleet = Fleet::serve(lab, None);
        lab.shell(
            "cd $LAB_SCRATCH/store/bundles && chmod u+w test-1.tar.zst &&
             printf rotten | dd of=test-1.tar.zst bs=1 seek=9000000 conv=notrunc status=none",
        );
        let (code, said) = fleet.receive("node1").ends();
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains("image verify"), "{said}");
        assert!(!said.contains("false symbols"), "nobody is accused: {said}");
        assert!(fleet.head_log().contains("damaged"), "{}", fleet.head_log());
    });
}

/// A disk of 64 MB that can hold 24: it takes everything into memory, and says at the end that it
/// could not keep all of it. From then on the kernel calls the lost pages clean, and gives them to
/// whoever reads: only the disk itself tells the truth. Gives whether such a disk could be made.
fn make_lying_disk(lab: &Lab) -> bool {
    let made = lab.shell(
        "cd $LAB_SCRATCH && mkdir back disk && mount -t tmpfs -o size=24m back back &&
         truncate -s 64M back/image && mkfs.ext4 -q -O ^has_journal -m 0 back/image &&
         if mount -o loop back/image disk 2>/dev/null; then echo made; fi",
    );
    made == "made"
}

/// A failed sync is not tried again as if it were clean: what the disk lost is found on the disk
/// and fetched again, by the same attempt if that helps, else by the next.
#[test]
fn row_27_disk_that_loses_what_it_took() {
    in_lab(NODES, |lab| {
        if !make_lying_disk(lab) {
            println!("only the real root may mount a disk: nothing is tested");
            return;
        }
        let scratch = lab.scratch();
        fs::write(scratch.join("source"), noise(27, 40 << 20)).expect("there is room");
        let created = Command::new(FLASHOVER)
            .args(["token", "create", "--offline"])
            .output()
            .expect("flashover starts");
        let token = String::from_utf8_lossy(&created.stdout).trim().to_owned();
        let command = |node, job: &str, file: &Path| {
            let mut command = lab.command(node, FLASHOVER);
            command.args([
                job,
                "--interface",
                "eth0",
                "--token",
                &token,
                "--json-lines",
            ]);
            command.arg(file);
            command
        };
        let cast = command("head", "cast", &scratch.join("source"));
        let _head = lab.spawn("head", cast, &scratch.join("head.log"));
        let caught = scratch.join("disk/caught");
        let catch = |log: &str| {
            let log = scratch.join(log);
            let node = lab.spawn("node1", command("node1", "catch", &caught), &log);
            let ended = node.end_within(Duration::from_secs(90));
            let said = fs::read_to_string(&log).unwrap_or_default();
            (ended.and_then(|status| status.code()), said)
        };
        let (code, said) = catch("first.log");
        assert_eq!(code, Some(7), "{said}");
        assert!(said.contains("did not take all that was written"), "{said}");
        assert!(said.contains("pieces changed on disk"), "{said}");
        assert!(!caught.exists(), "what is not proven gets no good name");
        // Now it could hold all; what it lost is lost.
        lab.shell("cd $LAB_SCRATCH && mount -o remount,size=100m back");
        let (code, said) = catch("second.log");
        assert_eq!(code, Some(0), "{said}");
        lab.shell(
            "cd $LAB_SCRATCH && umount disk && mount -o loop back/image disk &&
             cmp source disk/caught",
        );
    });
}
