//! Where we do not say what a kubelet's cAdvisor says, and why. METRICS.md has it from here, and so has the test that compares both.

/// How they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Only cAdvisor has the series.
    OnlyTheirs,
    /// Only we have them.
    OnlyOurs,
    /// Both have them, and the values are not the same.
    Values,
}

/// What a series is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The root of all cgroups.
    Node,
    /// What pods are in.
    Slice,
    /// A pod as a whole.
    Pod,
    /// A pod's pause container.
    Pause,
    /// A container.
    Container,
}

/// Where the memory controller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// Anywhere.
    Any,
    /// On cgroup v1.
    V1,
    /// On cgroup v2.
    V2,
}

/// Series that differ.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// Of these metrics; without any, of all.
    pub metrics: &'static [&'static str],
    /// Of these things.
    pub of: &'static [Of],
    /// On these machines.
    pub with: With,
    /// How.
    pub how: How,
    /// Why.
    pub reason: &'static str,
}

const PODS: &[Of] = &[Of::Pod, Of::Container];

/// Every difference, of the metrics that both have.
pub static DIFFERENCES: &[Difference] = &[
    Difference {
        metrics: &[],
        of: &[Of::Pause],
        with: With::Any,
        how: How::OnlyTheirs,
        reason: "Charged to the pod, and never listed.",
    },
    Difference {
        metrics: &[],
        of: &[Of::Slice],
        with: With::Any,
        how: How::OnlyTheirs,
        reason: "What only groups others is in their sum.",
    },
    Difference {
        metrics: &["container_oom_events_total"],
        of: &[Of::Pod],
        with: With::Any,
        how: How::OnlyTheirs,
        reason: "Kills are counted for the container that they hit; for pods cAdvisor says 0.",
    },
    Difference {
        metrics: &["container_spec_cpu_period"],
        of: PODS,
        with: With::Any,
        how: How::OnlyTheirs,
        reason: "Ours is there only where there is a quota: without one nothing is enforced in any period.",
    },
    Difference {
        metrics: &[
            "container_spec_cpu_period",
            "container_spec_cpu_shares",
            "container_spec_memory_reservation_limit_bytes",
            "container_spec_memory_swap_limit_bytes",
        ],
        of: &[Of::Node],
        with: With::Any,
        how: How::OnlyTheirs,
        reason: "Nobody sets the root's.",
    },
    Difference {
        metrics: &["container_fs_reads_total", "container_fs_writes_total"],
        of: &[Of::Node],
        with: With::Any,
        how: How::OnlyTheirs,
        reason: "By mounted file system, whether it has a device or not; ours are by device.",
    },
    Difference {
        metrics: &[
            "container_fs_reads_total",
            "container_fs_reads_bytes_total",
            "container_fs_writes_total",
            "container_fs_writes_bytes_total",
        ],
        of: &[Of::Node, Of::Pod, Of::Container],
        with: With::V1,
        how: How::OnlyOurs,
        reason: "Version 1 of the I/O controller counts only for devices that have a limit.",
    },
    Difference {
        metrics: &[
            "container_pressure_cpu_waiting_seconds_total",
            "container_pressure_cpu_stalled_seconds_total",
            "container_pressure_memory_waiting_seconds_total",
            "container_pressure_memory_stalled_seconds_total",
            "container_pressure_io_waiting_seconds_total",
            "container_pressure_io_stalled_seconds_total",
        ],
        of: &[Of::Node, Of::Pod, Of::Container],
        with: With::V1,
        how: How::OnlyOurs,
        reason: "cAdvisor reads pressure only where every controller is on version 2.",
    },
    Difference {
        metrics: &["container_memory_swap"],
        of: &[Of::Node, Of::Pod, Of::Container],
        with: With::V1,
        how: How::OnlyTheirs,
        reason: "Version 1 counts memory and swap together, and we do not take them apart.",
    },
    Difference {
        metrics: &["container_memory_failcnt"],
        of: &[Of::Node, Of::Pod, Of::Container],
        with: With::V2,
        how: How::OnlyTheirs,
        reason: "Version 2 does not count this, and cAdvisor says 0.",
    },
    Difference {
        metrics: &["container_cpu_usage_seconds_total"],
        of: &[Of::Node],
        with: With::V1,
        how: How::Values,
        reason: "cAdvisor's is what version 1 has charged to all cgroups, ours what `/sys/fs/cgroup/cpu.stat` of version 2 says.",
    },
    Difference {
        metrics: &["container_memory_failures_total"],
        of: &[Of::Node, Of::Pod],
        with: With::V1,
        how: How::Values,
        reason: "cAdvisor's lacks what is in the cgroups below, which is everything; ours has it, as both have on version 2.",
    },
    Difference {
        metrics: &["container_spec_memory_limit_bytes"],
        of: &[Of::Node],
        with: With::Any,
        how: How::Values,
        reason: "cAdvisor says how much memory the machine has. The root has no limit, and 0 is none.",
    },
    Difference {
        metrics: &["container_fs_reads_total", "container_fs_writes_total"],
        of: &[Of::Node],
        with: With::Any,
        how: How::Values,
        reason: "cAdvisor's are the disks' since they are there, ours what was completed since the agent started.",
    },
];

/// Metrics that only cAdvisor has, and why.
pub static MISSING: &[(&[&str], &str)] = &[
    (
        &["container_cpu_user_seconds_total", "container_cpu_system_seconds_total"],
        "CPU time is counted when tasks are switched, where nobody tells in which mode they ran.",
    ),
    (
        &["container_cpu_cfs_burst_periods_total", "container_cpu_cfs_burst_seconds_total"],
        "Kubernetes lets nobody set a burst.",
    ),
    (
        &["container_cpu_load_average_10s", "container_cpu_load_d_average_10s", "container_tasks_state"],
        "`container_cpu_run_queue_latency_seconds` has every wait for a CPU, where these look at tasks now and then; the kubelet has them switched off.",
    ),
    (
        &[
            "container_memory_kernel_usage",
            "container_memory_events_high_total",
            "container_memory_events_max_total",
            "container_memory_file_dirty_bytes",
            "container_memory_file_writeback_bytes",
            "container_memory_pgscan_total",
            "container_memory_pgsteal_total",
            "container_memory_workingset_refault_anon_total",
            "container_memory_workingset_refault_file_total",
        ],
        "Not read: `container_pressure_memory_*` tell what reclaim costs.",
    ),
    (
        &[
            "container_fs_inodes_free",
            "container_fs_inodes_total",
            "container_fs_limit_bytes",
            "container_fs_usage_bytes",
        ],
        "Room on file systems: no event of the kernel's tells it, and to look takes a walk through every file.",
    ),
    (
        &[
            "container_fs_read_seconds_total",
            "container_fs_write_seconds_total",
            "container_fs_io_time_seconds_total",
            "container_fs_io_time_weighted_seconds_total",
            "container_fs_io_current",
            "container_fs_io_cost_usage_seconds_total",
            "container_fs_io_cost_wait_seconds_total",
            "container_fs_io_cost_indebt_seconds_total",
            "container_fs_io_cost_indelay_seconds_total",
            "container_fs_reads_merged_total",
            "container_fs_writes_merged_total",
            "container_fs_sector_reads_total",
            "container_fs_sector_writes_total",
            "container_blkio_device_usage_total",
        ],
        "`container_fs_io_latency_seconds` has each request's time, and `container_fs_*_bytes_total` its bytes.",
    ),
    (
        &[
            "container_network_receive_bytes_total",
            "container_network_receive_errors_total",
            "container_network_receive_packets_dropped_total",
            "container_network_receive_packets_total",
            "container_network_transmit_bytes_total",
            "container_network_transmit_errors_total",
            "container_network_transmit_packets_dropped_total",
            "container_network_transmit_packets_total",
        ],
        "Interfaces belong to network namespaces, which pods of the host's network share; `container_tcp_*` are by container.",
    ),
    (
        &[
            "container_processes",
            "container_threads",
            "container_threads_max",
            "container_sockets",
            "container_file_descriptors",
            "container_ulimits_soft",
        ],
        "To count what processes have open takes a look at each of them.",
    ),
    (
        &[
            "container_start_time_seconds",
            "container_creation_time_seconds",
            "container_last_seen",
            "container_health_state",
        ],
        "kube-state-metrics has what the cluster says of a container's life; a series of ours ends with it.",
    ),
];
