//! A driver with a machine of the test's own: what the tests of streams play in.

use super::*;

/// A machine whose streams are moved by a function: it gets what the machine hears, and a list for
/// what the machine wants; a break ends the run.
pub(super) struct Actor<F> {
    act: F,
    wishes: VecDeque<StreamOp>,
    is_over: bool,
    /// Sends itself datagrams all the time.
    pub(super) flood: Option<(SocketAddr, usize)>,
}

impl<F> Actor<F>
where
    F: FnMut(StreamInput<'_>, &mut VecDeque<StreamOp>) -> ControlFlow<()>,
{
    pub(super) fn new(wishes: impl Into<VecDeque<StreamOp>>, act: F) -> Self {
        Self {
            act,
            wishes: wishes.into(),
            is_over: false,
            flood: None,
        }
    }
}

impl<F> Machine for Actor<F>
where
    F: FnMut(StreamInput<'_>, &mut VecDeque<StreamOp>) -> ControlFlow<()>,
{
    type Command = StreamOp;
    type Event = ();

    fn handle(&mut self, input: Input<'_, StreamOp>, _now: Time) {
        match input {
            Input::Stream(input) => {
                self.is_over |= (self.act)(input, &mut self.wishes).is_break();
            }
            Input::Command(wish) => self.wishes.push_back(wish),
            Input::Datagrams(_) => {
                if let Some((_, count)) = &mut self.flood {
                    *count += 1;
                }
            }
            Input::Disk(_) | Input::Timeout => {}
        }
    }

    fn poll_transmit(&mut self, _now: Time, buffer: &mut [u8]) -> Option<Transmit> {
        let (to, _) = self.flood?;
        buffer[..100].fill(1);
        Some(Transmit {
            channel: Channel(0),
            to,
            len: 100,
            segment_size: 100,
        })
    }

    fn poll_output(&mut self) -> Option<Output<()>> {
        if self.is_over {
            return Some(Output::Event(()));
        }
        self.wishes.pop_front().map(Output::Stream)
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

/// A driver with listeners, and what a test needs of it.
pub(super) struct Theatre {
    pub(super) driver: Driver,
    pub(super) mailbox: Mailbox<StreamOp>,
    commands: Commands<StreamOp>,
    pub(super) counters: Arc<Counters>,
}

pub(super) fn theatre(ways: Ways, listeners: Vec<Listener>, sockets: Vec<Socket>) -> Theatre {
    let counters = Arc::new(Counters::default());
    let (mailbox, commands) = mailbox().unwrap();
    let driver = Driver::new(Setup {
        sockets,
        listeners,
        files: vec![],
        arena: None,
        ways,
        counters: Arc::clone(&counters),
    });
    Theatre {
        driver: driver.unwrap(),
        mailbox,
        commands,
        counters,
    }
}

impl Theatre {
    /// Runs until the actor breaks; fails when it does not.
    pub(super) fn play<F>(&mut self, actor: &mut Actor<F>)
    where
        F: FnMut(StreamInput<'_>, &mut VecDeque<StreamOp>) -> ControlFlow<()>,
    {
        let (over, watched) = crossbeam::channel::bounded::<()>(1);
        let mailbox = self.mailbox.clone();
        let mut broke = false;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if watched
                    .recv_timeout(DEADLINE)
                    .is_err_and(|e| e.is_timeout())
                {
                    mailbox.stop();
                }
            });
            let ended = self.driver.run(actor, &self.commands, |()| {
                broke = true;
                ControlFlow::Break(())
            });
            drop(over);
            ended.unwrap();
        });
        assert!(broke, "the test's end did not come before its deadline");
    }

    pub(super) fn count(&self, counter: Counter) -> u64 {
        self.counters.get(counter)
    }

    /// Where its first listener is.
    pub(super) fn address(&self) -> SocketAddr {
        self.driver.listens_on()[0]
    }
}
