//! Images arrive, bit-exact, whatever the number of nodes and the loss.

use super::fleet::{CONTENT_BYTES, Fleet};
use super::lab::{Setup, in_lab};

macro_rules! images {
    ($($name:ident: $nodes:literal nodes, $loss:literal percent;)+) => {$(
        #[test]
        fn $name() {
            in_lab(Setup { nodes: $nodes, loss_percent: $loss }, |lab| {
                let fleet = Fleet::serve(lab, None);
                let receivers = (1..=$nodes).map(|number| fleet.receive(&format!("node{number}")));
                let receivers: Vec<_> = receivers.collect();
                for receiver in receivers {
                    let receipt = receiver.succeeds();
                    let by_multicast = receipt.bytes_by("multicast");
                    assert!(by_multicast >= CONTENT_BYTES / 2, "{by_multicast}: {}", receipt.said);
                }
            });
        }
    )+};
}

images! {
    one_node: 1 nodes, 0.0 percent;
    one_node_one_percent: 1 nodes, 1.0 percent;
    one_node_five_percent: 1 nodes, 5.0 percent;
    four_nodes: 4 nodes, 0.0 percent;
    four_nodes_one_percent: 4 nodes, 1.0 percent;
    four_nodes_five_percent: 4 nodes, 5.0 percent;
    eight_nodes: 8 nodes, 0.0 percent;
    eight_nodes_one_percent: 8 nodes, 1.0 percent;
    eight_nodes_five_percent: 8 nodes, 5.0 percent;
}
