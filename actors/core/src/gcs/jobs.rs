//! Jobs: one driver's connection each, from `init` to `shutdown`.

use std::time::Duration;

use mobula_transport::ProcessId;

use super::state::{Asker, Effect, Gcs, Job, Reply, Write};
use crate::culprit::Culprit;
use crate::error::Error;
use crate::ids::{ActorId, JobId};
use crate::messages::{ClusterEvent, JobInfo, JobRegistered, RegisterJob};

/// Ended jobs that are remembered.
const ENDED_JOBS_KEPT: usize = 1_000;
/// Jobs that run at once.
const MAX_RUNNING_JOBS: usize = 10_000;

/// How long after a restart of the head drivers have to show that they live. Longer than nodes have:
/// one that is given up loses all its work.
const DRIVER_REATTACH: Duration = Duration::from_secs(30);

impl Gcs {
    /// A driver connects. `job` is the id it will have.
    pub fn register_job(&mut self, job: JobId, request: RegisterJob, now: Duration, asker: Asker) {
        if self.jobs.len() - self.ended_jobs.len() >= MAX_RUNNING_JOBS {
            let what = format!("the cluster runs {MAX_RUNNING_JOBS} jobs, which is its limit; end one first");
            return self.emit(Effect::Answer(asker, Reply::Job(Box::new(Err(Error::Invalid { what })))));
        }
        let info = JobInfo {
            job,
            name: request.name,
            driver: request.driver,
            binary: request.binary,
            digest: request.digest,
            namespace: request.namespace.unwrap_or_else(|| job.to_string()),
            started_unix_s: self.unix_s(now),
            ended_unix_s: None,
            env: request.env,
        };
        self.emit(Effect::Write(Write::Job(Box::new(info.clone()))));
        self.jobs.insert(job, Job { info, seen: now });
        let view = self.view();
        self.emit(Effect::Answer(asker, Reply::Job(Box::new(Ok(JobRegistered { job, view })))));
    }

    /// The driver lives. False when its job is not running.
    pub fn job_heartbeat(&mut self, job: JobId, now: Duration) -> bool {
        match self.jobs.get_mut(&job).filter(|job| job.info.ended_unix_s.is_none()) {
            Some(job) => {
                job.seen = now;
                true
            }
            None => false,
        }
    }

    /// A client of the job is done. Only its driver ends the job: a worker's client leaves alone.
    pub fn finish_job(&mut self, job: JobId, from: ProcessId, now: Duration, asker: Asker) {
        if self.job(job).is_some_and(|info| info.driver.id == from) {
            self.end_job(job, "its job finished", now);
        }
        self.emit(Effect::Answer(asker, Reply::Finished));
        self.place_actors(now);
    }

    /// A job, if it is known.
    pub fn job(&self, job: JobId) -> Option<&JobInfo> {
        self.jobs.get(&job).map(|job| &job.info)
    }

    pub(super) fn end_job(&mut self, id: JobId, why: &str, now: Duration) {
        let unix_s = self.unix_s(now);
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.info.ended_unix_s.is_none()) else { return };
        job.info.ended_unix_s = Some(unix_s);
        let info = job.info.clone();
        self.emit(Effect::Write(Write::Job(Box::new(info))));
        let bound: Vec<ActorId> = self
            .actors
            .values()
            .filter(|actor| actor.spec.job == id && !actor.spec.detached && !actor.is_dead())
            .map(|actor| actor.spec.actor)
            .collect();
        for actor in bound {
            self.end_actor(actor, why, now);
        }
        self.end_groups_of(id, why, now);
        self.emit(Effect::Publish(ClusterEvent::JobFinished(id)));
        self.ended_jobs.push_back(id);
        if self.ended_jobs.len() > ENDED_JOBS_KEPT
            && let Some(oldest) = self.ended_jobs.pop_front()
        {
            self.jobs.remove(&oldest);
            self.emit(Effect::Write(Write::ForgetJob(oldest)));
        }
    }

    /// A job ends with its driver's process.
    pub(super) fn driver_died(&mut self, id: JobId, why: &str, now: Duration) {
        let Some(driver) = self.jobs.get(&id).map(|job| job.info.driver) else { return };
        self.end_job(id, why, now);
        self.emit(Effect::MarkGone(driver.id, why.to_owned()));
        let culprit = Culprit::Unknown;
        self.emit(Effect::Publish(ClusterEvent::ProcessDied { process: driver, why: why.to_owned(), culprit }));
        self.forget_waiters(driver.id);
    }

    fn unix_s(&self, now: Duration) -> u64 {
        self.config.epoch_unix_s + now.as_secs()
    }

    pub(super) fn expire_jobs(&mut self, now: Duration) {
        let silent: Vec<JobId> = self
            .jobs
            .values()
            .filter(|job| job.info.ended_unix_s.is_none() && job.info.driver.id != self.config.process)
            .filter(|job| now.saturating_sub(job.seen) > self.config.dead_after)
            .map(|job| job.info.job)
            .collect();
        for job in silent {
            self.driver_died(job, "its driver was not heard of for too long", now);
        }
    }

    pub(super) fn restore_job(&mut self, info: JobInfo, now: Duration) {
        if info.ended_unix_s.is_some() {
            self.ended_jobs.push_back(info.job);
        }
        // The driver's silence counts from then on.
        let seen = now + DRIVER_REATTACH;
        self.jobs.insert(info.job, Job { info, seen });
    }
}
