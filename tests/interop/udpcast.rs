//! Stock udpcast in the lab: the control. If it cannot transfer a file here, the lab is wrong, and
//! no comparison made in it counts.

use std::time::Duration;

use crate::netns::lab::{Setup, in_lab};

#[test]
fn stock_udpcast_transfers_a_file_to_four_nodes() {
    in_lab(
        Setup {
            nodes: 4,
            loss_percent: 0.0,
        },
        |lab| {
            let scratch = lab.scratch();
            let content = crate::netns::lab::noise(1, 8 << 20);
            let source = scratch.join("source");
            std::fs::write(&source, &content).expect("the scratch has room");
            let nodes = ["node1", "node2", "node3", "node4"];
            let receivers = nodes.map(|node| {
                let mut command = lab.command(node, "udp-receiver");
                command.arg("--file").arg(scratch.join(node));
                command.args(["--interface", "eth0", "--nokbd", "--no-progress"]);
                command.args(["--start-timeout", "30", "--receive-timeout", "30"]);
                lab.spawn(node, command, &scratch.join("log"))
            });
            let mut command = lab.command("head", "udp-sender");
            command.arg("--file").arg(&source);
            command.args(["--interface", "eth0", "--nokbd", "--no-progress"]);
            command.args(["--min-receivers", "4", "--start-timeout", "30"]);
            let sender = lab.spawn("head", command, &scratch.join("log"));
            for process in receivers.into_iter().chain([sender]) {
                let ended = process.end_within(Duration::from_secs(60));
                let log = std::fs::read_to_string(scratch.join("log")).unwrap_or_default();
                assert!(
                    ended.is_some_and(|status| status.success()),
                    "{ended:?}: {log}"
                );
            }
            for node in nodes {
                assert!(
                    std::fs::read(scratch.join(node)).is_ok_and(|got| got == content),
                    "{node}"
                );
            }
        },
    );
}
