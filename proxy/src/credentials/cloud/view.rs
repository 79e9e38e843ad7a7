//! An identity as people see it: never a token.

use std::{fmt, time::Duration};

use crate::config::Cloud;

/// An identity: its account, its way, the time that its token is still good, and what is wrong.
#[derive(Debug, Clone)]
pub struct CloudView {
    pub cloud: Cloud,
    /// The metadata server, the key or the exchange that gives it.
    pub way: String,
    /// The account or role, once the cloud has told it.
    pub principal: Option<String>,
    /// How much longer the token is good; `None` without a token.
    pub left: Option<Duration>,
    /// How much longer the cloud's server is not asked.
    pub asked_again_in: Option<Duration>,
    /// Why the last question brought no token, with the fix.
    pub trouble: Option<String>,
}

impl CloudView {
    pub(super) fn new(cloud: Cloud, way: String) -> Self {
        Self {
            cloud,
            way,
            principal: None,
            left: None,
            asked_again_in: None,
            trouble: None,
        }
    }
}

impl fmt::Display for CloudView {
    /// For example `the google identity larder@p.iam.gserviceaccount.com by the metadata server …, good for 52 min`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} identity", self.cloud.as_str())?;
        if let Some(principal) = &self.principal {
            write!(f, " {principal}")?;
        }
        write!(f, " by {}", self.way)?;
        match self.left {
            Some(left) => write!(f, ", good for {}", lasting(left))?,
            None => f.write_str(", without a token now")?,
        }
        match self.asked_again_in {
            Some(pause) => write!(f, ", asked again in {}", lasting(pause)),
            None => Ok(()),
        }
    }
}

fn lasting(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
