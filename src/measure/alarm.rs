//! A timer precise enough to send messages when they are due, and to answer them after a known
//! delay.
//!
//! tokio's timers are at least a millisecond late by design, so on Linux an alarm is a timerfd in
//! the event loop: the kernel's high-resolution timer without slack.

use std::task::{Context, Poll};

use super::clock;

/// A timer for one task.
#[derive(Debug)]
pub struct Alarm {
    imp: imp::Alarm,
    armed_ns: Option<u64>,
}

impl Alarm {
    /// A timer; call within a tokio runtime.
    ///
    /// # Errors
    /// The system has no file descriptors left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            imp: imp::Alarm::new()?,
            armed_ns: None,
        })
    }

    /// Ready when the clock has passed `at_ns` (ns since the Unix epoch), else the task is woken
    /// then.
    pub fn poll_at(&mut self, cx: &mut Context<'_>, at_ns: u64) -> Poll<()> {
        let now_ns = clock::now_ns();
        if now_ns >= at_ns {
            return Poll::Ready(());
        }
        if self.armed_ns != Some(at_ns) {
            self.imp.arm(at_ns - now_ns);
            self.armed_ns = Some(at_ns);
        }
        while self.imp.poll_fired(cx).is_ready() {
            let now_ns = clock::now_ns();
            if now_ns >= at_ns {
                self.armed_ns = None;
                return Poll::Ready(());
            }
            self.imp.arm(at_ns - now_ns);
        }
        Poll::Pending
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::os::fd::OwnedFd;
    use std::task::{Context, Poll, ready};

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::unix::AsyncFd;

    #[derive(Debug)]
    pub struct Alarm(AsyncFd<OwnedFd>);

    impl Alarm {
        #[expect(
            deprecated,
            reason = "its replacement is unsafe; an OwnedFd upholds what it asks"
        )]
        pub fn new() -> std::io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            Ok(Self(AsyncFd::new(timerfd_create(
                TimerfdClockId::Monotonic,
                flags,
            )?)?))
        }

        pub fn arm(&mut self, in_ns: u64) {
            let in_ns = i64::try_from(in_ns).unwrap_or(i64::MAX);
            let spec = Itimerspec {
                it_interval: Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                },
                it_value: Timespec {
                    tv_sec: in_ns / 1_000_000_000,
                    tv_nsec: in_ns % 1_000_000_000,
                },
            };
            timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &spec)
                .expect("a relative time in range is accepted");
        }

        pub fn poll_fired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            loop {
                // An event loop that is shutting down fires no more timers.
                let Ok(mut guard) = ready!(self.0.poll_read_ready(cx)) else {
                    return Poll::Pending;
                };
                let mut count = [0; 8];
                match rustix::io::read(self.0.get_ref(), &mut count) {
                    Ok(_) => return Poll::Ready(()),
                    Err(_) => guard.clear_ready(),
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::future::Future as _;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    /// Late by up to a millisecond or two, which `lag` shows.
    #[derive(Debug)]
    pub struct Alarm(Pin<Box<tokio::time::Sleep>>);

    impl Alarm {
        pub fn new() -> std::io::Result<Self> {
            Ok(Self(Box::pin(tokio::time::sleep(Duration::ZERO))))
        }

        pub fn arm(&mut self, in_ns: u64) {
            self.0
                .as_mut()
                .reset(tokio::time::Instant::now() + Duration::from_nanos(in_ns));
        }

        pub fn poll_fired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            self.0.as_mut().poll(cx)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_alarm_is_never_early() {
        let mut alarm = Alarm::new().expect("a timer");
        for after in [0, 20_000, 700_000, 3_000_000] {
            let due = clock::now_ns() + after;
            std::future::poll_fn(|cx| alarm.poll_at(cx, due)).await;
            assert!(clock::now_ns() >= due);
        }
    }
}
