//! Configuration: `barman.conf`, servers, secrets.
