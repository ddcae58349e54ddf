//! What the owner of a stream throws away, and what it does not.

use super::*;
use crate::client::StreamHandle;
use crate::messages::{StreamNews, StreamSpec, TaskYielded};
use crate::value::Value;

static STREAMS: RemoteFunction =
    RemoteFunction { name: "client tests: streams", signature: "", group: "", code: Code::Stream(|_, _| Ok(())) };

const WINDOW: u32 = 4;

impl Rig {
    fn stream(&self) -> StreamHandle {
        let options = TaskOptions { backpressure_num_objects: WINDOW, ..TaskOptions::default() };
        self.client.submit_stream(&STREAMS, smallvec![], &Arc::new(options)).unwrap()
    }

    /// The attempt stores an item, as a worker would.
    fn store_item(&self, task: &TaskSpec, index: u32) -> TaskYielded {
        let object = ObjectId { owner: self.endpoint.process().id, seq: task.seq, index };
        let bytes = [task.attempt as u8; 200_000];
        let stored = self.client.store().put_result(object, task.attempt, Encoding::RAW, &[&bytes]).unwrap();
        let item = ReturnSpec::Stored(stored);
        TaskYielded { seq: task.seq, attempt: task.attempt, index, item, refs: Vec::new() }
    }

    fn report(&self, item: TaskYielded) -> StreamNews {
        let to = self.endpoint.address_of(MailboxId::CLIENT);
        self.endpoint.request_blocking(to, item, Payload::new(), WITHIN).unwrap().0
    }

    fn yields(&self, task: &TaskSpec, index: u32) -> StreamNews {
        self.report(self.store_item(task, index))
    }

    fn end(&self, task: &TaskSpec) {
        let unit = Value::unit();
        let outcome = TaskOutcome::Returned(smallvec![ReturnSpec::Inline(unit.encoding)]);
        let done = TaskDone { seq: task.seq, attempt: task.attempt, outcome, run_us: 1, refs: Vec::new() };
        let to = self.endpoint.address_of(MailboxId::CLIENT);
        self.endpoint.send(Some(MailboxId::WORKER), to, done, vec![unit.data]);
    }
}

#[test]
fn what_a_lost_attempt_of_a_stream_has_left_is_thrown_away_and_what_counts_is_not() {
    let rig = Rig::new();
    let mut stream = rig.stream();
    let first = rig.one_pushed();
    assert_eq!(first.stream, Some(StreamSpec { skip: 0, window: WINDOW }));
    let item = rig.store_item(&first, 1);
    assert_eq!(rig.report(item.clone()), StreamNews::Consumed(0));
    // One that nobody heard of, and one that came too early.
    let unheard = rig.store_item(&first, 2);
    assert_eq!(rig.yields(&first, 3), StreamNews::Consumed(0));
    rig.say(TasksMissing { tasks: vec![(first.seq, first.attempt)] });
    let second = rig.one_pushed();
    assert_eq!(second.stream, Some(StreamSpec { skip: 1, window: WINDOW }));
    rig.eventually("what does not count is thrown away", |rig| rig.objects() == 1);
    // The worker was only out of reach.
    assert_eq!(rig.report(item.clone()), StreamNews::Enough, "its bytes count");
    assert_eq!(rig.report(unheard), StreamNews::Unwanted);
    assert_eq!(rig.yields(&second, 2), StreamNews::Consumed(0));
    rig.end(&second);
    let objects: Vec<_> = std::iter::from_fn(|| stream.next(Some(WITHIN)).unwrap()).collect();
    let values = rig.client.get(&objects, Some(WITHIN)).unwrap();
    assert_eq!(values.iter().map(|value| value.data[0]).collect::<Vec<_>>(), [1, 2], "each by the first that told it");
    assert_eq!(rig.report(item), StreamNews::Enough, "nor after the end");
    assert!(rig.client.get(std::slice::from_ref(stream.completed()), Some(WITHIN)).is_ok());
    drop((values, objects));
    rig.eventually("they are freed with their last references", |rig| rig.objects() == 0);
}

#[test]
fn a_stream_that_is_dropped_or_cancelled_leaves_nothing_in_the_store() {
    for cancelled in [true, false] {
        let rig = Rig::new();
        let mut stream = rig.stream();
        let task = rig.one_pushed();
        for index in [1, 2, 4] {
            assert_eq!(rig.yields(&task, index), StreamNews::Consumed(0));
        }
        let first = stream.next(Some(WITHIN)).unwrap().unwrap();
        if cancelled {
            rig.client.cancel(stream.completed(), Cancel::default());
            rig.eventually("the one that came too early is thrown away", |rig| rig.objects() == 2);
            assert!(stream.next(Some(WITHIN)).unwrap().is_some_and(|second| second.id().index == 2));
            let failed = stream.next(Some(WITHIN)).unwrap().unwrap();
            assert!(matches!(rig.client.get(&[failed], None), Err(Error::TaskCancelled { .. })));
            assert!(stream.next(Some(WITHIN)).unwrap().is_none());
        } else {
            drop(stream);
        }
        rig.eventually("what is left is freed", |rig| rig.objects() == 1);
        let late = rig.store_item(&task, 3);
        assert_eq!(rig.report(late), StreamNews::Unwanted, "its worker throws it away");
        assert!(rig.heard.try_iter().any(|heard| matches!(heard, Heard::Cancel(_))), "its worker is told");
        assert_eq!(rig.client.get(&[first], Some(WITHIN)).unwrap()[0].data[0], 1);
    }
}
