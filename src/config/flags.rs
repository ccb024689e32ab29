//! The flags that beat variables and the file. They are taken as text: what they may say is judged with the rest.

use super::schema::{self, Key};

/// Flags of every subcommand that starts or checks a bridge.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Configuration file (YAML) [env: SNAKEPIT_BRIDGE_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
    /// Where workers connect; port 0 picks one [default: 127.0.0.1:50061] [env: SNAKEPIT_BRIDGE_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where health, metrics and the API are served [default: 127.0.0.1:9464] [env: SNAKEPIT_BRIDGE_ADMIN_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
    /// File with the token that the admin port asks for [env: SNAKEPIT_BRIDGE_ADMIN_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<String>,
    /// Serve the admin port beyond loopback without a token [env: SNAKEPIT_BRIDGE_ADMIN_INSECURE]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub admin_insecure: Option<String>,
    /// Further host names that the admin port answers to, with commas between [env: SNAKEPIT_BRIDGE_ADMIN_ALLOWED_HOSTS]
    #[arg(long, value_name = "HOSTS")]
    pub admin_allowed_hosts: Option<String>,
    /// Certificate of the worker port (PEM); it then speaks TLS only [env: SNAKEPIT_BRIDGE_TLS_CERT]
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// Its private key (PEM) [env: SNAKEPIT_BRIDGE_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// CA of the certificates that workers must have (PEM) [env: SNAKEPIT_BRIDGE_TLS_CLIENT_CA]
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<String>,
    /// Field of a worker's certificate that says which worker ids it may claim: none, cn, dns or uri [default: none]
    /// [env: SNAKEPIT_BRIDGE_TLS_CLIENT_ID]
    #[arg(long, value_name = "FIELD")]
    pub tls_client_id: Option<String>,
    /// File with the token that the worker port asks for [env: SNAKEPIT_BRIDGE_WORKER_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub worker_token_file: Option<String>,
    /// Directory for what must outlive the bridge; without one nothing is kept on disk [env: SNAKEPIT_BRIDGE_STATE_DIR]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<String>,
    /// How often open spans and sums are written there [default: 5s] [env: SNAKEPIT_BRIDGE_CHECKPOINT_INTERVAL]
    #[arg(long, value_name = "DURATION")]
    pub checkpoint_interval: Option<String>,
    /// How long a start waits for its end [default: 10m] [env: SNAKEPIT_BRIDGE_SPAN_TIMEOUT]
    #[arg(long, value_name = "DURATION")]
    pub span_timeout: Option<String>,
    /// How long a lost worker may take to come back [default: 5s] [env: SNAKEPIT_BRIDGE_RECONNECT_GRACE]
    #[arg(long, value_name = "DURATION")]
    pub reconnect_grace: Option<String>,
    /// How far events may arrive out of order [default: 500ms] [env: SNAKEPIT_BRIDGE_REORDER_WINDOW]
    #[arg(long, value_name = "DURATION")]
    pub reorder_window: Option<String>,
    /// How long draining may take [default: 10s] [env: SNAKEPIT_BRIDGE_SHUTDOWN_TIMEOUT]
    #[arg(long, value_name = "DURATION")]
    pub shutdown_timeout: Option<String>,
    /// text or json [default: text on a terminal, else json] [env: SNAKEPIT_BRIDGE_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// What the bridge tells of itself over OTLP: traces, metrics, logs, with commas between [default: nothing]
    /// [env: SNAKEPIT_BRIDGE_OWN_TELEMETRY]
    #[arg(long, value_name = "SIGNALS")]
    pub own_telemetry: Option<String>,
}

impl Flags {
    /// What the flag of `key` says.
    #[must_use]
    pub fn value(&self, key: &Key) -> Option<&str> {
        let by_flag = [
            (&schema::CONFIG, &self.config),
            (&schema::LISTEN, &self.listen),
            (&schema::ADMIN_LISTEN, &self.admin_listen),
            (&schema::ADMIN_TOKEN_FILE, &self.admin_token_file),
            (&schema::ADMIN_INSECURE, &self.admin_insecure),
            (&schema::ADMIN_ALLOWED_HOSTS, &self.admin_allowed_hosts),
            (&schema::TLS_CERT, &self.tls_cert),
            (&schema::TLS_KEY, &self.tls_key),
            (&schema::TLS_CLIENT_CA, &self.tls_client_ca),
            (&schema::TLS_CLIENT_ID, &self.tls_client_id),
            (&schema::WORKER_TOKEN_FILE, &self.worker_token_file),
            (&schema::STATE_DIR, &self.state_dir),
            (&schema::CHECKPOINT_INTERVAL, &self.checkpoint_interval),
            (&schema::SPAN_TIMEOUT, &self.span_timeout),
            (&schema::RECONNECT_GRACE, &self.reconnect_grace),
            (&schema::REORDER_WINDOW, &self.reorder_window),
            (&schema::SHUTDOWN_TIMEOUT, &self.shutdown_timeout),
            (&schema::LOG_FORMAT, &self.log_format),
            (&schema::OWN_TELEMETRY, &self.own_telemetry),
        ];
        by_flag.into_iter().find(|(known, _)| known.flag == key.flag).and_then(|(_, value)| value.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        flags: Flags,
    }

    #[test]
    fn every_key_has_its_flag_and_reads_it() {
        for key in schema::KEYS {
            let argument = format!("{}=true", key.flag);
            let command = Command::try_parse_from(["bridge", &argument]).unwrap();
            assert_eq!(command.flags.value(key), Some("true"), "{}", key.flag);
        }
    }

    #[test]
    fn every_flag_names_its_variable_in_the_help() {
        let help = <Command as clap::CommandFactory>::command().term_width(0).render_long_help().to_string();
        for key in schema::KEYS {
            assert!(help.contains(&format!("[env: {}]", key.variable)), "{}", key.variable);
        }
    }

    #[test]
    fn admin_insecure_needs_no_value() {
        let command = Command::try_parse_from(["bridge", "--admin-insecure"]).unwrap();
        assert_eq!(command.flags.admin_insecure.as_deref(), Some("true"));
    }
}
