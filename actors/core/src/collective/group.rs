//! [`Group`]: a member's way to its group.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bell::Bell;
use super::call::{CALL_BYTES, Call, Kind};
use super::element::{Element, ReduceOp, bytes_of, bytes_of_mut};
use super::error::GroupError;
use super::joining::Joining;
use super::link::{Incoming, Outgoing};
use super::member::{Member, Need};
use super::messages::Lane;
use super::ring::{Course, Memory, Ring, Seat, apply, bounds_of, even_bounds};
use crate::client::Client;
use crate::error::Error;

/// The most members of a group.
const MAX_WORLD: u32 = 4096;
/// The longest piece unless told otherwise: so that what is in a link's slots stays in a core's own
/// cache, and much larger than what it costs to hand one on.
const PIECE_BYTES: u32 = 64 * 1024;
/// The bounds for the longest piece: what a call needs, and what a message may hold.
const PIECE_BYTES_ALLOWED: std::ops::RangeInclusive<u32> = 64..=8 * 1024 * 1024;
/// How long all members may take to come.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a neighbour may keep a member waiting.
const PATIENCE: Duration = Duration::from_secs(600);

/// Which group to join, and as what.
#[derive(Clone, Debug)]
#[must_use]
pub struct GroupConfig {
    pub(super) name: String,
    pub(super) world_size: u32,
    pub(super) rank: u32,
    pub(super) join_timeout: Duration,
    pub(super) patience: Duration,
    pub(super) piece_bytes: u32,
    pub(super) shared_memory: bool,
}

impl GroupConfig {
    /// The group `name` of `world_size` members, as number `rank` of them, from 0. Names are the
    /// job's own (those of its namespace, if it has one).
    pub fn new(name: impl Into<String>, world_size: u32, rank: u32) -> Self {
        Self {
            name: name.into(),
            world_size,
            rank,
            join_timeout: JOIN_TIMEOUT,
            patience: PATIENCE,
            piece_bytes: PIECE_BYTES,
            shared_memory: true,
        }
    }

    /// How long all members may take to come; a minute by default.
    pub fn join_timeout(mut self, timeout: Duration) -> Self {
        self.join_timeout = timeout;
        self
    }

    /// How long a living neighbour may keep this member waiting in a call; ten minutes by default.
    /// Dead ones are noticed at once.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The longest piece that travels at once; 64 KiB by default. That of rank 0 counts. No
    /// result depends on it.
    pub fn piece_bytes(mut self, bytes: u32) -> Self {
        self.piece_bytes = bytes;
        self
    }

    /// Whether what this member sends may go through shared memory, where the receiver sees the
    /// same; it may by default.
    pub fn shared_memory(mut self, shared: bool) -> Self {
        self.shared_memory = shared;
        self
    }

    fn check(&self) -> Result<(), GroupError> {
        let what = if self.name.is_empty() {
            "a group needs a name".to_owned()
        } else if !(1..=MAX_WORLD).contains(&self.world_size) {
            format!("a group of {} members: it may have 1 to {MAX_WORLD}", self.world_size)
        } else if self.rank >= self.world_size {
            format!("rank {} in a group of {}: ranks count from 0", self.rank, self.world_size)
        } else if !PIECE_BYTES_ALLOWED.contains(&self.piece_bytes) {
            let (min, max) = PIECE_BYTES_ALLOWED.into_inner();
            format!("pieces of {} bytes: {min} to {max} are allowed", self.piece_bytes)
        } else {
            return Ok(());
        };
        Err(GroupError::Invalid { what })
    }
}

/// A member's place in a group. All members make the same calls in the same order, with data of
/// the same length and type; each call blocks until this member has its result, and lends the CPU
/// of its task while it waits.
///
/// After an error other than [`GroupError::Invalid`] the group is at its end, for all members; what
/// is in the data then is not defined. Dropping it leaves: the others can finish the calls that
/// this member has made, and fail in the next one.
pub struct Group {
    client: Client,
    config: GroupConfig,
    member: Arc<Member>,
    seat: Seat,
    piece_bytes: usize,
    /// The calls that were carried out.
    calls: u64,
    /// From the left and to the right; none for a member alone.
    ring: Option<(Incoming, Outgoing)>,
    from: BTreeMap<u32, Incoming>,
    to: BTreeMap<u32, Outgoing>,
}

impl Group {
    /// Joins a group; blocks until all of its members have come.
    ///
    /// # Errors
    /// [`GroupError::Missing`] says who did not come in time.
    pub fn join(config: GroupConfig) -> Result<Self, GroupError> {
        let client = Client::current().ok_or_else(|| Error::NoSession {
            what: "no session is running in this process; call init first".to_owned(),
        })?;
        Self::join_with(&client, config)
    }

    /// [`join`](Self::join) with a client other than the thread's.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn join_with(client: &Client, config: GroupConfig) -> Result<Self, GroupError> {
        config.check()?;
        let deadline = Instant::now() + config.join_timeout;
        let member = Member::start(client.endpoint(), config.rank);
        client.collectives().add(&member);
        // Dropped on the way, it leaves.
        let mut group = Self {
            client: client.clone(),
            seat: Seat { rank: config.rank as usize, world: config.world_size as usize },
            piece_bytes: 0,
            calls: 0,
            ring: None,
            from: BTreeMap::new(),
            to: BTreeMap::new(),
            member,
            config,
        };
        let formed = group.joining(deadline).form()?;
        group.piece_bytes = formed.piece_bytes as usize;
        group.member.formed(formed.members);
        if group.seat.world > 1 {
            let (left, right) = (group.seat.left() as u32, group.seat.right() as u32);
            let outgoing = group.joining(deadline).link_to(Lane::Ring, right, group.piece_bytes)?;
            let incoming = group.link_from(Lane::Ring, left, Need::Everyone(1), "joining the group")?;
            group.ring = Some((incoming, outgoing));
        }
        Ok(group)
    }

    /// The group's name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// This member's number, from 0.
    pub fn rank(&self) -> u32 {
        self.config.rank
    }

    /// How many members there are.
    pub fn world_size(&self) -> u32 {
        self.config.world_size
    }

    /// Makes `data` of all members the sums (or the least, or the largest) of what they had.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn allreduce<T: Element>(&mut self, data: &mut [T], op: ReduceOp) -> Result<(), GroupError> {
        let bounds = even_bounds(data.len(), self.seat.world);
        self.go_round(Kind::AllReduce(op), Course::Both, &bounds, op, Memory::Whole(data))
    }

    /// Reduces `data` and returns this member's share of the result: all shares are as long as
    /// each other, but that the first ones are longer by one if it does not come out even.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn reduce_scatter<T: Element>(&mut self, data: &[T], op: ReduceOp) -> Result<Vec<T>, GroupError> {
        self.scatter(data, even_bounds(data.len(), self.seat.world), op)
    }

    /// [`reduce_scatter`](Self::reduce_scatter) with shares of these lengths, by rank.
    ///
    /// # Errors
    /// [`GroupError::Invalid`] unless there is a length for each member, and they add up to that
    /// of the data; else as the others.
    pub fn reduce_scatter_parts<T: Element>(
        &mut self,
        data: &[T],
        lengths: &[usize],
        op: ReduceOp,
    ) -> Result<Vec<T>, GroupError> {
        let bounds = self.bounds(lengths)?;
        if bounds.last() != Some(&data.len()) {
            let sum = bounds.last().copied().unwrap_or(0);
            let what = format!("parts of {sum} numbers together, and {} to reduce", data.len());
            return Err(GroupError::Invalid { what });
        }
        self.scatter(data, bounds, op)
    }

    fn scatter<T: Element>(&mut self, data: &[T], bounds: Vec<usize>, op: ReduceOp) -> Result<Vec<T>, GroupError> {
        let start = bounds[self.seat.rank];
        let mut mine = data[start..bounds[self.seat.rank + 1]].to_vec();
        let memory = Memory::Part { data, mine: &mut mine, start };
        self.go_round(Kind::ReduceScatter(op), Course::Reduce, &bounds, op, memory)?;
        Ok(mine)
    }

    /// What all members have, in the order of their ranks. They need not have equally much; if
    /// each knows how much, [`all_gather_parts`](Self::all_gather_parts) saves a round.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn all_gather<T: Element>(&mut self, mine: &[T]) -> Result<Vec<T>, GroupError> {
        let mut lengths = vec![0_u64; self.seat.world];
        lengths[self.seat.rank] = mine.len() as u64;
        let ones = even_bounds(self.seat.world, self.seat.world);
        let whole = Memory::Whole(&mut lengths);
        // Which numbers it is about is agreed on here too, by the second round.
        self.go_round(Kind::AllGather, Course::Gather, &ones, ReduceOp::Sum, whole)?;
        let lengths: Vec<usize> = lengths.into_iter().map(|len| len as usize).collect();
        self.all_gather_parts(mine, &lengths)
    }

    /// [`all_gather`](Self::all_gather) of members that have so much each, by rank.
    ///
    /// # Errors
    /// [`GroupError::Invalid`] unless there is a length for each member, and this one's is that of
    /// `mine`; else as the others.
    pub fn all_gather_parts<T: Element>(&mut self, mine: &[T], lengths: &[usize]) -> Result<Vec<T>, GroupError> {
        let bounds = self.bounds(lengths)?;
        let part = bounds[self.seat.rank]..bounds[self.seat.rank + 1];
        if part.len() != mine.len() {
            let what = format!("rank {} has {} numbers, not {}", self.rank(), mine.len(), part.len());
            return Err(GroupError::Invalid { what });
        }
        let mut all = zeros(bounds[self.seat.world])?;
        all[part].copy_from_slice(mine);
        self.go_round(Kind::AllGather, Course::Gather, &bounds, ReduceOp::Sum, Memory::Whole(&mut all))?;
        Ok(all)
    }

    /// Makes `data` of all members what `root` has.
    ///
    /// # Errors
    /// [`GroupError`]; the root may have gone on before the others notice one.
    pub fn broadcast<T: Element>(&mut self, data: &mut [T], root: u32) -> Result<(), GroupError> {
        self.check_rank(root)?;
        // One part that is gathered, and all others empty.
        let mut lengths = vec![0; self.seat.world];
        lengths[root as usize] = data.len();
        let bounds = bounds_of(&lengths);
        self.go_round(Kind::Broadcast { root }, Course::Gather, &bounds, ReduceOp::Sum, Memory::Whole(data))
    }

    /// Returns when all members have called it.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn barrier(&mut self) -> Result<(), GroupError> {
        // Something from everyone.
        let ones = even_bounds(self.seat.world, self.seat.world);
        let mut here = vec![0_i32; self.seat.world];
        self.go_round(Kind::Barrier, Course::Gather, &ones, ReduceOp::Sum, Memory::Whole(&mut here))
    }

    /// Sends `data` to one other member, which has to [`recv`](Self::recv) it. Returns when all of
    /// it is on its way: of much data when most of it has been received.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn send<T: Element>(&mut self, data: &[T], to: u32) -> Result<(), GroupError> {
        self.check_other(to)?;
        let mut link = match self.to.remove(&to) {
            Some(link) => link,
            None => self.joining(Instant::now() + self.config.patience).link_to(Lane::Direct, to, self.piece_bytes)?,
        };
        let call = Call::new::<T>(link.sent() + 1, Kind::Send, &[0, data.len()]);
        let turn = self.turn(&call, Need::ReaderAt(to), to);
        let sent = turn.send(&mut link, CALL_BYTES, |slot| slot.copy_from_slice(&call.to_bytes())).and_then(|()| {
            let mut pieces = data.chunks(self.piece_len::<T>());
            pieces.try_for_each(|piece| {
                let bytes = bytes_of(piece);
                turn.send(&mut link, bytes.len(), |slot| slot.copy_from_slice(bytes))
            })
        });
        self.to.insert(to, link);
        sent
    }

    /// What `from` has sent, in the order in which it sent it.
    ///
    /// # Errors
    /// [`GroupError`]; [`GroupError::Disagreement`] when other numbers were sent.
    pub fn recv<T: Element>(&mut self, from: u32) -> Result<Vec<T>, GroupError> {
        self.check_other(from)?;
        let mut link = match self.from.remove(&from) {
            Some(link) => link,
            None => self.link_from(Lane::Direct, from, Need::PieceFrom { rank: from, taken: 0 }, "recv")?,
        };
        let received = self.receive(&mut link, from);
        self.from.insert(from, link);
        received
    }

    fn receive<T: Element>(&self, link: &mut Incoming, from: u32) -> Result<Vec<T>, GroupError> {
        let awaited = Call::new::<T>(link.taken() + 1, Kind::Send, &[0, 0]);
        let wait = |link: &Incoming| {
            let need = Need::PieceFrom { rank: from, taken: link.taken() };
            self.turn(&awaited, need, from).piece(link)
        };
        wait(link)?;
        let sent = link.read(Call::from_bytes);
        let Some(sent) = sent.filter(|sent| sent.kind == Kind::Send && sent.element == T::CODE) else {
            let left_call = sent.map_or_else(|| "something unknown".to_owned(), |sent| sent.to_string());
            return Err(self.failed(GroupError::Disagreement {
                left: from,
                left_call,
                right: self.rank(),
                right_call: format!("a recv of {}", T::NAME),
            }));
        };
        let mut data = zeros(sent.len as usize)?;
        for piece in data.chunks_mut(self.piece_len::<T>()) {
            wait(link)?;
            let bytes = bytes_of_mut(piece);
            let came = link.read(|slot| match slot.len() == bytes.len() {
                true => {
                    bytes.copy_from_slice(slot);
                    Ok(())
                }
                false => Err((slot.len(), bytes.len())),
            });
            came.map_err(|lengths| self.failed(damaged(lengths)))?;
        }
        Ok(data)
    }

    // ---- round the ring ------------------------------------------------------------------------

    /// Carries out one call of all members.
    fn go_round<T: Element>(
        &mut self,
        kind: Kind,
        course: Course,
        bounds: &[usize],
        op: ReduceOp,
        mut memory: Memory<'_, T>,
    ) -> Result<(), GroupError> {
        let number = self.calls + 1;
        let need = Need::Everyone(number);
        if let Some(trouble) = self.member.trouble(need) {
            return Err(self.failed(trouble));
        }
        if let Some((mut left, mut right)) = self.ring.take() {
            let call = Call::new::<T>(number, kind, bounds);
            let ring = Ring::new(self.seat, course, bounds, self.piece_len::<T>());
            let done = self.carry_out(&call, ring, op, &mut memory, (&mut left, &mut right));
            self.ring = Some((left, right));
            done?;
        }
        self.calls = number;
        Ok(())
    }

    fn carry_out<T: Element>(
        &self,
        call: &Call,
        ring: Ring<'_>,
        op: ReduceOp,
        memory: &mut Memory<'_, T>,
        (left, right): (&mut Incoming, &mut Outgoing),
    ) -> Result<(), GroupError> {
        let need = Need::Everyone(call.number);
        let (from, to) =
            (self.turn(call, need, self.seat.left() as u32), self.turn(call, need, self.seat.right() as u32));
        to.send(right, CALL_BYTES, |slot| slot.copy_from_slice(&call.to_bytes()))?;
        let mut agreed = false;
        for step in ring {
            let len = step.piece.len() * size_of::<T>();
            if step.receive && !agreed {
                self.agree(call, &from, left)?;
                agreed = true;
            }
            if step.send {
                to.room(right)?;
            }
            if !step.receive {
                right.write(len, |outgoing| apply(&step, op, memory, &[], outgoing));
                continue;
            }
            from.piece(left)?;
            let done = left.read(|incoming| {
                if incoming.len() != len {
                    return Err((incoming.len(), len));
                }
                match step.send {
                    true => right.write(len, |outgoing| apply(&step, op, memory, incoming, outgoing)),
                    false => apply(&step, op, memory, incoming, &mut []),
                }
                Ok(())
            });
            done.map_err(|lengths| self.failed(damaged(lengths)))?;
        }
        if agreed { Ok(()) } else { self.agree(call, &from, left) }
    }

    /// Compares this member's call with its left neighbour's.
    fn agree(&self, call: &Call, from: &Turn<'_>, left: &mut Incoming) -> Result<(), GroupError> {
        from.piece(left)?;
        match left.read(Call::from_bytes) {
            Some(theirs) if theirs == *call => Ok(()),
            theirs => Err(self.failed(GroupError::Disagreement {
                left: from.rank,
                left_call: theirs.map_or_else(|| "something unknown".to_owned(), |theirs| theirs.to_string()),
                right: self.rank(),
                right_call: call.to_string(),
            })),
        }
    }

    fn piece_len<T: Element>(&self) -> usize {
        (self.piece_bytes / size_of::<T>()).max(1)
    }

    // ---- what else they need -------------------------------------------------------------------

    fn joining(&self, deadline: Instant) -> Joining<'_> {
        Joining { client: &self.client, config: &self.config, member: &self.member, deadline }
    }

    /// Blocks until there is a link from `rank`.
    fn link_from(&self, lane: Lane, rank: u32, need: Need, what: &str) -> Result<Incoming, GroupError> {
        let turn = Turn { group: self, what: &what, need, rank };
        turn.wait(&self.member.bell, || self.member.has_link(lane, rank))?;
        self.member.take_link(lane, rank).ok_or(GroupError::MemberLeft { rank })
    }

    fn turn<'a>(&'a self, call: &'a Call, need: Need, rank: u32) -> Turn<'a> {
        Turn { group: self, what: call, need, rank }
    }

    /// The group ends with this error, for all.
    fn failed(&self, error: GroupError) -> GroupError {
        self.member.fail(error.clone(), true);
        error
    }

    fn bounds(&self, lengths: &[usize]) -> Result<Vec<usize>, GroupError> {
        let sum = lengths.iter().try_fold(0_usize, |sum, len| sum.checked_add(*len));
        if lengths.len() != self.seat.world || sum.is_none() {
            let what = format!("{} lengths for the parts of {} members", lengths.len(), self.seat.world);
            return Err(GroupError::Invalid { what });
        }
        Ok(bounds_of(lengths))
    }

    fn check_rank(&self, rank: u32) -> Result<(), GroupError> {
        if rank < self.world_size() {
            return Ok(());
        }
        let what = format!("there is no rank {rank} in a group of {}", self.world_size());
        Err(GroupError::Invalid { what })
    }

    fn check_other(&self, rank: u32) -> Result<(), GroupError> {
        self.check_rank(rank)?;
        match rank == self.rank() {
            true => Err(GroupError::Invalid { what: format!("rank {rank} cannot send to itself") }),
            false => Ok(()),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.client.collectives().remove(&self.member);
        self.member.leave(self.calls, |rank| self.to.get(&rank).map_or(0, Outgoing::sent));
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({:?}, rank {} of {}, {} calls)", self.name(), self.rank(), self.world_size(), self.calls)
    }
}

/// A wait for a neighbour.
struct Turn<'a> {
    group: &'a Group,
    /// What it is for.
    what: &'a dyn fmt::Display,
    need: Need,
    /// Who is waited for.
    rank: u32,
}

impl Turn<'_> {
    /// Sends a piece when there is room for it.
    fn send(&self, link: &mut Outgoing, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<(), GroupError> {
        self.room(link)?;
        link.write(len, fill);
        Ok(())
    }

    fn room(&self, link: &Outgoing) -> Result<(), GroupError> {
        self.wait(link.bell(), || link.has_room())
    }

    fn piece(&self, link: &Incoming) -> Result<(), GroupError> {
        self.wait(link.bell(), || link.has_piece())
    }

    fn wait(&self, bell: &Bell, ready: impl Fn() -> bool) -> Result<(), GroupError> {
        if ready() {
            return Ok(());
        }
        let Group { member, config, .. } = self.group;
        let mut trouble = None;
        let done = || {
            // First whether it is there: what a member sends before it ends counts.
            ready() || {
                trouble = if member.noticed() { member.trouble(self.need) } else { None };
                trouble.is_some()
            }
        };
        if bell.wait(done, Instant::now() + config.patience) {
            // Told to the others, so that all learn of the same reason.
            return trouble.map_or(Ok(()), |trouble| Err(self.group.failed(trouble)));
        }
        Err(self.group.failed(GroupError::TimedOut {
            rank: self.rank,
            waiting: self.group.rank(),
            call: self.what.to_string(),
            after: config.patience,
        }))
    }
}

/// A piece is not as long as the members have agreed.
fn damaged((came, awaited): (usize, usize)) -> GroupError {
    GroupError::System { what: "reading a piece".to_owned(), why: format!("{came} bytes came instead of {awaited}") }
}

fn zeros<T: Element>(len: usize) -> Result<Vec<T>, GroupError> {
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(len).map_err(|error| GroupError::System {
        what: format!("making room for {len} numbers"),
        why: error.to_string(),
    })?;
    zeros.resize(len, T::default());
    Ok(zeros)
}
