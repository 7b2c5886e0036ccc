//! How long a check waits.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::human;

/// How long one line of a check may take, so that none swallows the others.
#[derive(Debug, Clone, Copy)]
pub struct Patience(Option<Duration>);

impl Patience {
    /// What a line gets of the time for a whole check: no line waits for more than two others.
    pub fn of(whole: Option<Duration>) -> Self {
        Patience(whole.map(|whole| whole / 3))
    }

    /// The limit, if there is one.
    pub fn limit(self) -> Option<Duration> {
        self.0
    }

    /// Waits for `work` as long as a line may take.
    ///
    /// # Errors
    /// Those of `work`, and one that says that there was no answer.
    pub async fn wait<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let work = Box::pin(work);
        let Some(limit) = self.0 else { return work.await };
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            let message = format!("no answer in {}", human::duration(limit));
            Err(Error::new(Kind::Io, message))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_gets_a_third_and_says_so() {
        let patience = Patience::of(Some(Duration::from_millis(30)));
        assert_eq!(patience.wait(async { Ok(1) }).await.unwrap(), 1);
        let error = patience.wait(std::future::pending::<Result<()>>()).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer in less than one second");
        assert_eq!(Patience::of(Some(Duration::from_secs(30))).limit().unwrap().as_secs(), 10);
        assert_eq!(Patience::of(None).limit(), None);
    }
}
