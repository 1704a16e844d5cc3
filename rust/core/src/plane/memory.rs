//! How much memory this process may use for buffers when nobody says.

/// Without a tighter limit.
const MOST: u64 = 128 << 20;

/// The smaller of 128 MiB and half of the cgroup's limit.
pub(super) fn default_budget() -> u64 {
    cgroup_limit().map_or(MOST, |limit| (limit / 2).min(MOST))
}

/// The memory limit of our cgroup, version 2 or 1, if there is one.
fn cgroup_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let files = if controllers.is_empty() {
            // Limits of parents count too; the container runtime mounts the group itself at the root.
            vec![
                format!("/sys/fs/cgroup{path}/memory.max"),
                "/sys/fs/cgroup/memory.max".to_owned(),
            ]
        } else if controllers.split(',').any(|c| c == "memory") {
            vec![
                format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"),
                "/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned(),
            ]
        } else {
            continue;
        };
        for file in files {
            if let Some(limit) = std::fs::read_to_string(file)
                .ok()
                .and_then(|t| t.trim().parse::<u64>().ok())
            {
                least = Some(least.map_or(limit, |l| l.min(limit)));
            }
        }
    }
    least
}
