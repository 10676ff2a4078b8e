//! A GitHub App as Git's credential provider: connects `forge::app`, which requests tokens, with `git`, which needs them.
//! Neither depends on the other.

use std::sync::Arc;

use crate::forge::app::{GitHubApp, TokenPurpose};
use crate::git::TokenError;
use crate::git::credential_provider::{CredentialProvider, TokenSource};
use crate::secret::Secret;

/// The user name that GitHub expects with an installation token as the password.
const USER: &str = "x-access-token";

#[derive(Debug)]
struct ForGit(Arc<GitHubApp>);

impl TokenSource for ForGit {
    fn token(&self) -> Result<Secret, TokenError> {
        self.0.token(TokenPurpose::Git).map_err(|error| {
            let (hint, retryable) = (error.hint(), error.retryable());
            TokenError { cause: Box::new(error), hint, retryable }
        })
    }

    fn rejected(&self) {
        self.0.forget(TokenPurpose::Git);
    }
}

/// The credential provider that requests tokens from an App.
pub fn credential_provider(app: Arc<GitHubApp>) -> CredentialProvider {
    CredentialProvider { user: USER.to_owned(), tokens: Arc::new(ForGit(app)) }
}
