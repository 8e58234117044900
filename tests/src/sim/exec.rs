//! Runs the tasks of a world in one thread, in the order that the seed says.
//!
//! A task belongs to a process. *Kill* drops all its tasks where they stand; what they asked of disks and nets is theirs to end. A frozen
//! process's tasks keep their turn until it is thawed.
//!
//! Invariants: one task runs at a time; a task that is dropped is never polled again; where no task can go on and no timer runs while
//! the world's own task has not ended, that is a failure (a hang), and so is one step too many.

use super::sched::{ProcId, Sched, TaskId, WORLD};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

type Work = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    proc: ProcId,
    /// Not here while it is polled.
    work: Option<Work>,
    waker: Waker,
}

struct Inner {
    sched: Sched,
    tasks: RefCell<BTreeMap<TaskId, Task>>,
    parked: RefCell<BTreeMap<ProcId, Vec<TaskId>>>,
    mourners: RefCell<BTreeMap<ProcId, Vec<Waker>>>,
    steps: Cell<u64>,
}

/// The executor; a clone is another handle. Not to be sent: its tasks are not.
#[derive(Clone)]
pub struct Exec(Rc<Inner>);

struct TaskWaker {
    sched: Sched,
    task: TaskId,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.sched.make_ready(self.task);
    }
}

/// Why a world did not come to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stuck {
    /// Nothing can go on.
    Hang,
    /// Too many steps.
    Steps,
}

/// A task's result, for who waits for it.
pub struct Joined<T>(Rc<Slot<T>>);

struct Slot<T> {
    value: RefCell<Option<T>>,
    waker: RefCell<Option<Waker>>,
}

impl<T> Joined<T> {
    /// Whether it has ended.
    #[must_use]
    pub fn done(&self) -> bool {
        self.0.value.borrow().is_some()
    }
}

impl<T> Future for Joined<T> {
    type Output = T;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match self.0.value.borrow_mut().take() {
            Some(v) => Poll::Ready(v),
            None => {
                *self.0.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Exec {
    /// For this world.
    #[must_use]
    pub fn new(sched: Sched) -> Self {
        Self(Rc::new(Inner {
            sched,
            tasks: RefCell::default(),
            parked: RefCell::default(),
            mourners: RefCell::default(),
            steps: Cell::new(0),
        }))
    }

    /// Clock, dice and trace.
    #[must_use]
    pub fn sched(&self) -> &Sched {
        &self.0.sched
    }

    /// Begins a task of a process. A process that is dead begins nothing: its result never comes.
    pub fn spawn<T: 'static>(&self, proc: ProcId, work: impl Future<Output = T> + 'static) -> Joined<T> {
        let slot = Rc::new(Slot { value: RefCell::new(None), waker: RefCell::new(None) });
        if !self.0.sched.alive(proc) {
            return Joined(slot);
        }
        let done = slot.clone();
        let work: Work = Box::pin(async move {
            let value = work.await;
            *done.value.borrow_mut() = Some(value);
            let waker = done.waker.borrow_mut().take();
            if let Some(w) = waker {
                w.wake();
            }
        });
        let id = self.0.sched.new_task();
        let waker = Waker::from(Arc::new(TaskWaker { sched: self.0.sched.clone(), task: id }));
        self.0.tasks.borrow_mut().insert(id, Task { proc, work: Some(work), waker });
        self.0.sched.make_ready(id);
        Joined(slot)
    }

    /// Ends a process: its tasks are dropped where they stand.
    pub fn kill(&self, proc: ProcId) {
        assert_ne!(proc, WORLD, "the world ends by itself");
        self.0.sched.trace(proc, "killed", 0, 0);
        self.0.sched.die(proc);
        let ids: Vec<TaskId> = self.0.tasks.borrow().iter().filter(|(_, t)| t.proc == proc).map(|(id, _)| *id).collect();
        // A task's drop may wake and ask: the table is free meanwhile.
        let dropped: Vec<Option<Task>> = ids.iter().map(|id| self.0.tasks.borrow_mut().remove(id)).collect();
        drop(dropped);
        self.0.parked.borrow_mut().remove(&proc);
        let mourners = self.0.mourners.borrow_mut().remove(&proc).unwrap_or_default();
        mourners.into_iter().for_each(Waker::wake);
    }

    /// Waits for the death of a process.
    pub async fn death(&self, proc: ProcId) {
        std::future::poll_fn(|cx| {
            if !self.0.sched.alive(proc) {
                return Poll::Ready(());
            }
            self.0.mourners.borrow_mut().entry(proc).or_default().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// A frozen process goes on.
    pub fn thaw(&self, proc: ProcId) {
        self.0.sched.thaw(proc);
        let parked = self.0.parked.borrow_mut().remove(&proc).unwrap_or_default();
        parked.into_iter().for_each(|t| self.0.sched.make_ready(t));
    }

    /// Sleeps, by the true clock.
    pub async fn sleep(&self, time: Duration) {
        self.0.sched.sleep(WORLD, time).await;
    }

    /// Runs the world until its own task ends.
    ///
    /// # Errors
    /// Where it does not.
    pub fn run<T: 'static>(&self, limit: u64, world: impl Future<Output = T> + 'static) -> Result<T, Stuck> {
        let joined = self.spawn(WORLD, world);
        let end = loop {
            if let Some(value) = joined.0.value.borrow_mut().take() {
                break Ok(value);
            }
            if self.0.steps.get() >= limit {
                break Err(Stuck::Steps);
            }
            while self.0.sched.fire(false) {}
            match self.0.sched.pick() {
                Some(task) => self.step(task),
                None if self.0.sched.fire(true) => {}
                None => break Err(Stuck::Hang),
            }
        };
        self.clear();
        end
    }

    /// Tasks, who waits for deaths and timers hold handles on this world: they are dropped here, or never.
    fn clear(&self) {
        let rest = std::mem::take(&mut *self.0.tasks.borrow_mut());
        drop(rest);
        self.0.parked.borrow_mut().clear();
        let mourners = std::mem::take(&mut *self.0.mourners.borrow_mut());
        drop(mourners);
        self.0.sched.clear();
    }

    /// Tells whether it is still held by somebody.
    pub fn watch(&self) -> impl Fn() -> usize + use<> {
        let weak = Rc::downgrade(&self.0);
        move || weak.strong_count()
    }

    /// Steps done.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.0.steps.get()
    }

    fn step(&self, id: TaskId) {
        let (mut work, waker, proc) = {
            let mut tasks = self.0.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(&id) else { return };
            if self.0.sched.frozen(task.proc) {
                self.0.parked.borrow_mut().entry(task.proc).or_default().push(id);
                return;
            }
            let work = task.work.take().expect("a task is polled by this loop alone");
            (work, task.waker.clone(), task.proc)
        };
        self.0.steps.set(self.0.steps.get() + 1);
        self.0.sched.trace(proc, "step", id.0, 0);
        let done = work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut tasks = self.0.tasks.borrow_mut();
        if done {
            tasks.remove(&id);
        } else if let Some(task) = tasks.get_mut(&id) {
            task.work = Some(work);
            return;
        }
        // Killed in its own step, or at its end: dropped with the table free.
        drop(tasks);
        drop(work);
    }
}

/// Lets others go first.
pub async fn turn() {
    let mut gone = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut gone, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
