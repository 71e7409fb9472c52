//! Schedules: who is asked when, and what is said.

use std::time::Duration;

use super::*;
use crate::swarm::tracker::http;

const TORRENT: [u8; 20] = [7; 20];

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn url(name: &str) -> TrackerUrl {
    format!("http://{name}/announce").parse().unwrap()
}

fn announcer(tiers: &[&[&str]]) -> Announcer {
    let identity = Identity {
        info_hash: TORRENT,
        peer_id: [9; 20],
        port: 6881,
        key: 1,
    };
    let tiers: Vec<Vec<_>> = tiers
        .iter()
        .map(|t| t.iter().map(|n| url(n)).collect())
        .collect();
    Announcer::new(identity, &tiers, 5, at(0))
}

const HALF: Progress = Progress {
    uploaded: 1,
    downloaded: 2,
    left: 3,
};

fn reply() -> Reply {
    Reply {
        interval: Duration::from_secs(60),
        ..Reply::default()
    }
}

#[test]
fn tiers_are_tried_in_order_and_who_answers_comes_first() {
    let mut announcer = announcer(&[&["a", "b"], &["c"]]);
    let first = announcer.poll(HALF, at(0)).unwrap();
    assert_eq!(announcer.poll(HALF, at(0)), None, "one at a time");
    announcer.failed(at(0));
    let second = announcer.poll(HALF, at(0)).unwrap();
    assert_ne!(first.tracker, second.tracker);
    assert_ne!(second.tracker, url("c"));
    announcer.answered(&reply(), at(0));
    assert_eq!(announcer.poll(HALF, at(59)), None);
    let third = announcer.poll(HALF, at(68)).unwrap();
    assert_eq!(
        (third.tracker, third.announce.event),
        (second.tracker, Event::None)
    );
    announcer.failed(at(68));
    let fourth = announcer.poll(HALF, at(68)).unwrap();
    assert_eq!(
        (fourth.tracker, fourth.announce.event),
        (first.tracker, Event::Started)
    );
    announcer.failed(at(68));
    assert_eq!(announcer.poll(HALF, at(68)).unwrap().tracker, url("c"));
    announcer.failed(at(68));
    let next = announcer.poll_timeout().unwrap();
    assert!(next.since(at(68)) >= BACKOFF_MIN * 3 / 4 && next.since(at(68)) <= BACKOFF_MIN * 2);
    let backoffs = (0..12).map(|_| {
        let start = announcer.poll_timeout().unwrap();
        (0..3).for_each(|_| {
            announcer.poll(HALF, start).unwrap();
            announcer.failed(start);
        });
        announcer.poll_timeout().unwrap().since(start)
    });
    let last = backoffs.last().unwrap();
    assert!((90..=150).contains(&last.as_secs()), "{last:?}");
}

#[test]
fn started_completed_and_stopped_are_each_said_once() {
    let mut announcer = announcer(&[&["a"]]);
    let said = |announcer: &mut Announcer, now| {
        let ask = announcer.poll(HALF, now)?;
        announcer.answered(&reply(), now);
        Some(ask.announce.event)
    };
    announcer.complete();
    assert_eq!(said(&mut announcer, at(0)), Some(Event::Started));
    assert_eq!(
        said(&mut announcer, at(0)),
        Some(Event::Completed),
        "at once"
    );
    assert_eq!(said(&mut announcer, at(1)), None);
    assert_eq!(said(&mut announcer, at(100)), Some(Event::None));
    announcer.stop();
    announcer.complete();
    assert_eq!(said(&mut announcer, at(101)), Some(Event::Stopped));
    assert!(announcer.has_ended() && announcer.poll_timeout().is_none());
    assert_eq!(said(&mut announcer, at(1000)), None);
}

#[test]
fn who_was_never_known_does_not_say_that_it_stops() {
    let mut announcer = announcer(&[&["a"]]);
    announcer.stop();
    assert_eq!(announcer.poll(HALF, at(0)), None);
    assert!(announcer.has_ended());
}

#[test]
fn a_tracker_cannot_make_a_client_hurry_or_sleep_for_ever() {
    let mut announcer = announcer(&[&["a"]]);
    announcer.poll(HALF, at(0)).unwrap();
    announcer.answered(&Reply::default(), at(0));
    assert!(announcer.poll_timeout().unwrap() >= at(0) + INTERVAL_MIN);
    announcer.poll(HALF, at(10)).unwrap();
    let long = Reply {
        interval: Duration::MAX,
        ..Reply::default()
    };
    announcer.answered(&long, at(10));
    assert!(announcer.poll_timeout().unwrap() < at(2 * 3600));
    announcer.hurry(Duration::from_secs(1), at(20));
    assert_eq!(announcer.poll_timeout(), Some(at(21)));
}

#[test]
fn the_trackers_id_goes_back_to_it() {
    let mut announcer = announcer(&[&["a"]]);
    announcer.poll(HALF, at(0)).unwrap();
    announcer.answered(
        &Reply {
            tracker_id: Some(b"x y".to_vec()),
            ..reply()
        },
        at(0),
    );
    let ask = announcer.poll(HALF, at(100)).unwrap();
    let query = http::query(&ask.announce, ask.tracker_id.as_deref());
    assert!(query.ends_with("&trackerid=x%20y"), "{query}");
}
