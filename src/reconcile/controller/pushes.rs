//! Pushes that a forge tells of: its webhook reaches any controller, and one of them leads.
//!
//! Who does not lead writes into the EgressConfig that somebody pushed, and whoever leads sees it there. Deliberately absent: the webhook
//! (`hook`), and what was pushed: that is asked of Git.

use super::Controller;
use crate::reconcile::now;
use crate::telemetry::chain;

impl Controller {
    /// Tells the leader of a push, unless this is it. A failure costs the leader the time until it looks by itself.
    pub(super) fn pass_on(&self) {
        if self.leading.fence().is_some() {
            return;
        }
        let live = self.live.clone();
        tokio::spawn(async move {
            if let Err(error) = live.tell_pushed(&now().to_string()).await {
                tracing::warn!(error = chain(&error), "the leader is not told that somebody pushed");
            }
        });
    }

    /// Looks at Git at once where another controller was told of a push.
    pub(super) fn heed_push(&mut self) {
        let pushed = self.watching.view().config.as_ref().and_then(|config| config.pushed.clone());
        if pushed.is_some() && pushed != self.pushed {
            self.pushed = pushed;
            self.repository.look();
            self.pulls.look();
        }
    }
}
