//! Seeds that call peers which the user named.

use flashover::swarm::torrent::Command;

use super::{Swarm, address};

#[test]
fn a_seed_goes_to_whom_the_user_names() {
    let mut swarm = Swarm::new(1, 64, 1 << 16);
    for number in 0..=2 {
        swarm.add(number == 0);
    }
    swarm.start_alone(0, swarm.all(), true);
    swarm.start_alone(1, swarm.none(), false);
    swarm.start_alone(2, swarm.none(), false);
    swarm.command(0, Command::Peers(vec![address(2)]));
    swarm.command(0, Command::Named(vec![address(1)]));
    swarm.finish(std::iter::once(1), 4.0);
    let heard = swarm.heard[2].borrow();
    assert_eq!(heard.bytes_in, 0, "others it does not call");
}

/// Both sides call at the same time: of two connections one stays, and nothing is sent twice.
#[test]
fn a_seed_that_calls_everybody_sends_everything_once() {
    crate::sim::seeds("swarm::named", 4, |seed| {
        let mut swarm = Swarm::begin(seed, 16, 256, 1 << 16);
        let all = (1..=16).map(address).collect();
        swarm.command(0, Command::Named(all));
        let ratio = swarm.finish(1..=16, 3.0);
        let copies = swarm.seeder_copies();
        let told = swarm.told();
        assert!(ratio <= 1.2 && copies <= 1.05, "{ratio} {copies}\n{told}");
    });
}
