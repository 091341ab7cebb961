use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Wake,
};

use proptest::prelude::*;

use super::*;
use crate::http2::{
    connection::{CONNECTION_WINDOW_BYTES, OUTPUT_BYTES_MAX},
    frames::PAYLOAD_BYTES_MAX,
    rig::{Rig, data, field, frame, headers, request, setting, window_update},
};

/// Says that a task is to be polled.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// A task that answers.
struct Task {
    stream: Rc<Stream>,
    flag: Arc<Flag>,
    /// Bytes that it has yet to send.
    unsent: usize,
    /// Bytes that the client was sent, and how many it has allowed.
    sent: usize,
    allowed: usize,
}

/// A connection with tasks that are polled when they are woken, and only then.
struct Model {
    rig: Rig,
    tasks: Vec<Task>,
    sent: usize,
    allowed: usize,
    /// The window of new streams.
    window: usize,
}

impl Model {
    fn new() -> Self {
        Self { rig: Rig::greeted(), tasks: Vec::new(), sent: 0, allowed: 65_535, window: 65_535 }
    }

    fn open(&mut self) {
        let id = u32::try_from(2 * self.tasks.len() + 1).expect("few");
        self.rig.send(&headers(id, false, request("POST"))).expect("a request");
        let stream = self.rig.stream(id);
        self.tasks.push(Task { stream, flag: Arc::default(), unsent: 0, sent: 0, allowed: self.window });
    }

    /// A task has more to send.
    fn wants(&mut self, index: usize, bytes: usize) {
        self.tasks[index].unsent += bytes;
        self.tasks[index].flag.0.store(true, Relaxed);
        self.run();
    }

    /// Polls every task that was woken.
    fn run(&mut self) {
        while let Some(task) = self.tasks.iter_mut().find(|task| task.flag.0.swap(false, Relaxed)) {
            let waker = Arc::clone(&task.flag).into();
            let cx = Context::from_waker(&waker);
            while task.unsent > 0 {
                match task.stream.poll_room(&cx, task.unsent) {
                    Poll::Pending => break,
                    Poll::Ready(Err(_)) => task.unsent = 0,
                    Poll::Ready(Ok(bytes)) => {
                        assert!((1..=task.unsent).contains(&bytes));
                        match bytes > COPY_BYTES_MAX {
                            true => task.stream.send(vec![b'x'; bytes].into(), false),
                            false => task.stream.send_copy(&vec![b'x'; bytes], false),
                        }
                        task.unsent -= bytes;
                    }
                }
            }
        }
        let waits = self.rig.connection.waits();
        assert!(waits <= OUTPUT_BYTES_MAX + (16 << 10), "{waits} bytes wait");
    }

    /// The client takes all that waits.
    fn take(&mut self) {
        for (head, payload) in self.rig.told() {
            assert!(head.length <= PAYLOAD_BYTES_MAX);
            if head.kind == kind::DATA {
                let task = &mut self.tasks[head.stream as usize / 2];
                task.sent += payload.len();
                self.sent += payload.len();
                assert!(task.sent <= task.allowed, "{} of {} bytes", task.sent, task.allowed);
                assert!(self.sent <= self.allowed, "{} of {} bytes", self.sent, self.allowed);
            }
        }
        self.run();
    }

    fn widen(&mut self, index: Option<usize>, by: usize) {
        let by32 = u32::try_from(by).expect("a window");
        let id = index.map_or(0, |index| self.tasks[index].stream.id());
        self.rig.send(&window_update(id, by32)).expect("a wider window");
        match index {
            Some(index) => self.tasks[index].allowed += by,
            None => self.allowed += by,
        }
        self.run();
    }

    fn set_window(&mut self, window: usize) {
        self.rig.send(&setting(4, u32::try_from(window).expect("a window"))).expect("a setting");
        for task in &mut self.tasks {
            // What is on its way already may be more than a smaller window.
            task.allowed += window.saturating_sub(self.window);
        }
        self.window = self.window.max(window);
        self.run();
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Open,
    Wants(usize, usize),
    Take,
    Widen(Option<usize>, usize),
    SetWindow(usize),
    GivenUpByClient(usize),
    GivenUp(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let index = || 0_usize..8;
    let by = || prop_oneof![1_usize..4, 1_usize..100_000];
    prop_oneof![
        2 => Just(Step::Open),
        6 => (index(), prop_oneof![1_usize..100, 1_usize..300_000]).prop_map(|(index, bytes)| Step::Wants(index, bytes)),
        4 => Just(Step::Take),
        4 => (prop::option::of(index()), by()).prop_map(|(index, by)| Step::Widen(index, by)),
        1 => prop_oneof![Just(0), Just(1), 0_usize..200_000].prop_map(Step::SetWindow),
        1 => index().prop_map(Step::GivenUpByClient),
        1 => index().prop_map(Step::GivenUp),
    ]
}

proptest! {
    /// No more is sent than the client allows and no more waits than may; nobody is forgotten.
    #[test]
    fn answers_keep_every_window_and_all_arrive(steps in prop::collection::vec(step(), 1..60)) {
        let mut model = Model::new();
        model.open();
        for step in steps {
            let count = model.tasks.len();
            match step {
                Step::Open => model.open(),
                Step::Wants(index, bytes) => model.wants(index % count, bytes),
                Step::Take => model.take(),
                Step::Widen(index, by) => {
                    let index = index.map(|index| index % count);
                    // Of what is over nobody says any more.
                    if index.is_none_or(|index| !model.tasks[index].stream.is_given_up()) {
                        model.widen(index, by);
                    }
                }
                Step::SetWindow(window) => model.set_window(window),
                Step::GivenUpByClient(index) => {
                    let id = model.tasks[index % count].stream.id();
                    model.rig.send(&frame(kind::RST_STREAM, 0, id, [0, 0, 0, 8])).expect("given up");
                    model.run();
                }
                Step::GivenUp(index) => {
                    model.tasks[index % count].stream.reset(Code::InternalError);
                    model.tasks[index % count].unsent = 0;
                    model.run();
                }
            }
        }
        // Once there is room for everything, everything arrives.
        model.widen(None, 1 << 30);
        for index in 0..model.tasks.len() {
            if !model.tasks[index].stream.is_given_up() {
                model.widen(Some(index), 1 << 30);
            }
        }
        while model.rig.connection.waits() > 0 {
            model.take();
        }
        for task in &model.tasks {
            prop_assert_eq!(task.unsent, 0, "of stream {}", task.stream.id());
        }
    }

    /// However a body is cut into frames, it is what it was, and the client may go on sending.
    #[test]
    fn a_body_is_what_came(
        pieces in prop::collection::vec((prop_oneof![0_usize..20, 0_usize..16_384], 0_u8..3), 1..40),
        with_trailers: bool,
    ) {
        let mut rig = Rig::greeted();
        rig.send(&headers(1, false, request("POST"))).expect("a request");
        let stream = rig.stream(1);
        let mut incoming = Incoming::new(Rc::clone(&stream));
        let cx = Context::from_waker(Waker::noop());
        let (mut expected, mut got) = (Vec::new(), Vec::new());
        let mut read = |incoming: &mut Incoming| while incoming.poll_fill(&cx).is_ready() {
            let Piece::Data(length) = incoming.next() else { break };
            got.extend_from_slice(incoming.bytes(length));
            // In two parts: either may be all.
            drop(incoming.take(length / 2));
            drop(incoming.take(length - length / 2));
        };
        for (number, (length, padding)) in pieces.into_iter().enumerate() {
            let payload = vec![u8::try_from(number).expect("few"); length];
            let length = length.min(PAYLOAD_BYTES_MAX - 4);
            let padded = [&[padding], &payload[..length], &vec![0; padding.into()]].concat();
            rig.send(&frame(kind::DATA, 8, 1, padded)).expect("there is room");
            expected.extend_from_slice(&payload[..length]);
            // Two may wait together.
            if number % 2 == 1 {
                read(&mut incoming);
            }
        }
        match with_trailers {
            true => rig.send(&headers(1, true, field("x", "y"))).expect("trailers"),
            false => rig.send(&data(1, true, "")).expect("the end"),
        }
        read(&mut incoming);
        prop_assert!(incoming.is_done());
        prop_assert_eq!(incoming.trailers().get("x").is_some(), with_trailers);
        prop_assert_eq!(got, expected);
        prop_assert_eq!(stream.unused.get(), 0);
        // Nothing is lost of the connection's window.
        stream.end();
        let unheard = rig.connection.unheard();
        prop_assert!(unheard >= i64::from(CONNECTION_WINDOW_BYTES), "{unheard}");
    }
}

#[test]
fn answers_take_turns() {
    const LARGE: usize = 1 << 20;
    let mut model = Model::new();
    model.set_window(LARGE);
    model.widen(None, 3 * LARGE);
    for index in 0..3 {
        model.open();
        model.wants(index, LARGE);
    }
    while model.sent < LARGE {
        model.take();
    }
    let sent: Vec<_> = model.tasks.iter().map(|task| task.sent).collect();
    let (least, most) = (sent.iter().min().expect("some"), sent.iter().max().expect("some"));
    // The first one was alone when it began.
    assert!(most - least < 2 * OUTPUT_BYTES_MAX, "{sent:?}");
}

#[test]
fn an_answer_that_gets_nowhere_holds_nobody_up() {
    let mut model = Model::new();
    for index in 0..3 {
        model.open();
        model.wants(index, 100_000);
    }
    // The connection's window is used up by the first.
    model.take();
    assert_eq!(model.tasks.iter().map(|task| task.sent).collect::<Vec<_>>(), [65_535, 0, 0]);
    model.tasks[1].stream.reset(Code::Cancel);
    model.widen(None, 1_000_000);
    model.take();
    assert_eq!(model.tasks.iter().map(|task| task.sent).collect::<Vec<_>>(), [65_535, 0, 65_535]);
    // A window that got smaller than what was sent has to open further than that.
    model.set_window(10);
    model.widen(Some(2), 65_525);
    model.take();
    assert_eq!(model.tasks[2].sent, 65_535);
    model.widen(Some(2), 1);
    model.take();
    assert_eq!(model.tasks[2].sent, 65_536);
}
