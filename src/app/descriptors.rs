//! Whether the process may open as many files as its connections need.

/// Descriptors beside those of the workers' connections: ports, exports, the admin port's connections, the store.
const OTHERS: u64 = 100;

/// Warns if the connections that are allowed do not all find a descriptor. Where the limit cannot be read, nothing is
/// said.
pub(super) fn warn_if_few(max_connections: usize) {
    let Some(limit) = std::fs::read_to_string("/proc/self/limits").ok().and_then(|text| soft_limit(&text))
    else {
        return;
    };
    if let Some(needed) = missing(limit, max_connections) {
        tracing::warn!(
            limit,
            needed,
            "the process may open fewer files (ulimit -n, LimitNOFILE) than limits.max_connections asks for: beyond them \
             connections wait"
        );
    }
}

/// How many are needed, if the limit is below.
fn missing(limit: u64, max_connections: usize) -> Option<u64> {
    let needed = (max_connections as u64).saturating_add(OTHERS);
    (limit < needed).then_some(needed)
}

/// The soft limit of open files, as Linux writes it; nothing if there is none.
fn soft_limit(text: &str) -> Option<u64> {
    let limits = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    limits.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_the_first_number() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             31337                31337                processes \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(soft_limit(text), Some(1_024));
        assert_eq!(soft_limit(&text.replace("1024  ", "unlimited")), None);
        assert_eq!(soft_limit(""), None);
    }

    #[test]
    fn every_connection_needs_a_descriptor_and_others_some() {
        assert_eq!(missing(15_100, 15_000), None);
        assert_eq!(missing(15_099, 15_000), Some(15_100));
    }
}
