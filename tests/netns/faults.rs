//! One bad node never holds up the others, and every node's end is the truth. `SLOW` gives a
//! transfer a middle to interfere in.

use super::fleet::{CONTENT_BYTES, Fleet};
use super::lab::{HEAD, Setup, in_lab};

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
        let fleet = Fleet::serve(lab, None);
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
        let fleet = Fleet::serve(lab, SLOW);
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
