//! One timer per connection, cheap enough to be set for every request.
//!
//! Setting a runtime's timer means a walk through its wheel. A deadline that only ever moves later need not
//! do that: the timer stays armed where it was, and when it fires too early it is armed again. So a
//! keep-alive connection pays for its deadlines a few times a second at most, not for every request.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// The time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Runs a future until the deadline.
    ///
    /// # Errors
    /// [`Expired`] if it is not ready by then.
    pub async fn until<T>(&mut self, deadline: Instant, future: impl Future<Output = T>) -> Result<T, Expired> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_expired(deadline, cx).map(|()| Err(Expired)),
        })
        .await
    }

    /// Runs a future for a while. The clock is not read if the future is ready at once.
    ///
    /// # Errors
    /// [`Expired`] if it is not ready by then.
    pub async fn within<T>(&mut self, span: Duration, future: impl Future<Output = T>) -> Result<T, Expired> {
        let mut future = pin!(future);
        let mut deadline = None;
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + span);
                self.poll_expired(deadline, cx).map(|()| Err(Expired))
            }
        })
        .await
    }

    /// Ready when the deadline has passed; otherwise the task is woken then, or earlier.
    pub fn poll_expired(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deadlines_may_move_either_way() {
        let mut timer = Timer::default();
        let start = Instant::now();
        for seconds in [5_u64, 60, 2, 2, 7] {
            let begun = Instant::now();
            let deadline = begun + Duration::from_secs(seconds);
            assert_eq!(timer.until(deadline, std::future::pending::<()>()).await, Err(Expired));
            assert!(begun.elapsed() >= Duration::from_secs(seconds));
            assert!(begun.elapsed() < Duration::from_secs(seconds) + Duration::from_millis(10));
        }
        assert_eq!(timer.until(start + Duration::from_secs(1000), async { 7 }).await, Ok(7));
    }
}
