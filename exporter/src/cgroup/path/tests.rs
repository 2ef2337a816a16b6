use super::*;
use proptest::{collection::vec, option, prelude::*, sample::select};

const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

/// `{A}` and `{B}` are container ids, `{X}` almost is one; a pod's UID is `{U}` in a slice, `{D}` elsewhere,
/// `{H}` for a static pod.
fn expand(shape: &str) -> String {
    shape
        .replace("{burstable}", "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{U}.slice")
        .replace("{besteffort}", "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{U}.slice")
        .replace("{guaranteed}", "kubepods.slice/kubepods-pod{U}.slice")
        .replace("{kind}", "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{U}.slice")
        .replace("{U}", &UID.replace('-', "_"))
        .replace("{D}", UID)
        .replace("{H}", "00112233445566778899aabbccddeeff")
        .replace("{A}", &"0123456789abcdef".repeat(4))
        .replace("{B}", &"fedcba9876543210".repeat(4))
        .replace("{X}", &"0123456789ABCDEF".repeat(4))
}

/// A row is the expected runtime, id, pod and unit, then the path; what follows `|` has to roll up.
fn check(table: &str) {
    for row in table.lines().map(str::trim).filter(|row| !row.is_empty() && !row.starts_with('#')) {
        let row = expand(row);
        let columns: Vec<_> = row.split_whitespace().collect();
        let [runtime, id, pod, unit, path] = columns[..] else { panic!("{row}") };
        let (start, rest) = path.split_once('|').unwrap_or((path, ""));
        let path = format!("{start}{rest}");
        let got = workload(&path);
        assert_eq!(got.path, start, "{row}");
        assert_eq!(got.runtime.map_or("-", Runtime::as_str), runtime, "{row}");
        assert_eq!(got.container_id.unwrap_or("-"), id, "{row}");
        assert_eq!(got.pod_uid.as_deref().unwrap_or("-"), pod, "{row}");
        assert_eq!(got.unit.unwrap_or("-"), unit, "{row}");
    }
}

#[test]
fn containers_under_the_systemd_driver() {
    check(
        "
        containerd {A} {D} - /{burstable}/cri-containerd-{A}.scope
        containerd {A} {D} - /{besteffort}/cri-containerd-{A}.scope
        containerd {A} {D} - /{guaranteed}/cri-containerd-{A}.scope
        containerd {A} {H} - /kubepods.slice/kubepods-pod{H}.slice/cri-containerd-{A}.scope
        cri-o      {A} {D} - /{burstable}/crio-{A}.scope
        docker     {A} {D} - /{burstable}/docker-{A}.scope
        containerd {A} -   - /system.slice/nerdctl-{A}.scope
        docker     {A} -   - /system.slice/docker-{A}.scope
        podman     {A} -   - /machine.slice/libpod-{A}.scope
        podman     {A} -   - /machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope
        podman     {A} -   - /user.slice/user-1.slice/user@1.service/user.slice/libpod-{A}.scope
        podman     {A} -   - /system.slice/web.service/libpod-payload-{A}
        ",
    );
}

#[test]
fn containers_under_the_cgroupfs_driver() {
    check(
        "
        -     {A} {D} - /kubepods/burstable/pod{D}/{A}
        -     {A} {D} - /kubepods/besteffort/pod{D}/{A}
        -     {A} {D} - /kubepods/pod{D}/{A}
        -     {A} {H} - /kubepods/burstable/pod{H}/{A}
        -     {A} {D} - /system.slice/k3s.service/kubepods/pod{D}/{A}
        -     {A} -   - /docker/{A}
        cri-o {A} {D} - /kubepods/burstable/pod{D}/crio-{A}
        ",
    );
}

#[test]
fn containers_of_mismatched_drivers() {
    check(
        "
        containerd {A} {D} - /system.slice/x.service/kubepods-pod{U}.slice:cri-containerd:{A}|/a
        cri-o      {A} {D} - /kubepods-pod{U}.slice:crio:{A}
        docker     {A} {D} - /kubepods-besteffort-pod{U}.slice:docker:{A}
        docker     {A} -   - /system.slice:docker:{A}
        docker     {A} -   - /a:b.slice:docker:{A}
        containerd {A} -   - /:nerdctl:{A}
        -          -   {D} - /kubepods-pod{U}.slice:crio-conmon:{A}
        ",
    );
}

#[test]
fn sub_cgroups_of_a_container() {
    check(
        "
        containerd {A} {D} - /{burstable}/cri-containerd-{A}.scope|/init.scope
        containerd {A} {D} - /{burstable}/cri-containerd-{A}.scope|/system.slice/dbus.service
        cri-o      {A} {D} - /{burstable}/crio-{A}.scope|/container
        podman     {A} -   - /machine.slice/libpod-{A}.scope|/container/a/b/
        -          {A} {D} - /kubepods/pod{D}/{A}|//workers/7
        # a node's own pods are part of the node until they have containers
        docker     {B} -   - /system.slice/docker-{B}.scope|/{kind}
        docker     {B} -   - /system.slice/docker-{B}.scope|/{kind}/crio-conmon-{A}.scope
        docker     {B} -   - /system.slice/docker-{B}.scope|/system.slice/containerd.service
        ",
    );
}

#[test]
fn nested_nodes_and_other_roots() {
    check(
        "
        containerd {A} {D} - /{kind}/cri-containerd-{A}.scope
        -          {A} {D} - /kubelet/kubepods/burstable/pod{D}/{A}
        containerd {A} {D} - /system.slice/docker-{B}.scope/{kind}/cri-containerd-{A}.scope|/init.scope
        -          {A} {D} - /docker/{B}/kubelet/kubepods/burstable/pod{D}/{A}|/x
        containerd {A} {D} - /machine.slice/libpod-{B}.scope/container/{kind}/cri-containerd-{A}.scope
        docker     {B} {D} - /{guaranteed}/cri-containerd-{A}.scope/system.slice/docker-{B}.scope
        -          {B} {D} - /kubepods/pod{H}/{A}/kubepods/pod{D}/{B}
        ",
    );
}

#[test]
fn pods_without_a_container() {
    check(
        "
        - - {D} - /{burstable}
        - - {D} - /kubepods/burstable/pod{D}
        - - {H} - /kubepods/pod{H}
        - - {D} - /system.slice/k3s.service/kubepods/pod{D}
        - - {D} - /kubepods/pod{D}/anything
        - - {D} - /kubepods/pod{D}/crio-conmon-{A}
        - - {D} init.scope /a.service/kubepods/pod{D}/init.scope|/x
        - - {D} crio-conmon-{A}.scope /{burstable}/crio-conmon-{A}.scope|/x
        - - -   - /kubepods.slice/kubepods-burstable.slice
        - - -   - /podinfo.slice/podinfo-pod1.slice
        - - -   - /docker/{X}
        - - -   - /kubepods/pod0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f_
        - - -   - /user.slice/notapod{D}
        ",
    );
}

#[test]
fn units_and_the_rest() {
    check(
        "
        - - - sshd.service    /system.slice/sshd.service
        - - - getty@1.service /system.slice/system-getty.slice/getty@1.service
        - - - docker.socket   /system.slice/docker.socket
        - - - swap.swap       /system.slice/swap.swap
        - - - s-{A}-shm.mount /system.slice/s-{A}-shm.mount
        - - - memory.service  /system.slice/_memory.service
        - - - session-3.scope /user.slice/user-1000.slice/session-3.scope|/a/b
        - - - user@1.service  /user.slice/user-1.slice/user@1.service|/init.scope
        - - - app.service     /user.slice/user-1.slice/user@1.service/app.slice/app.service|/x
        - - - user@1.service  /user.slice/user-1.slice/user@1.service|/app.slice
        - - - init.scope      /init.scope
        - - - libpod-conmon-{A}.scope /machine.slice/libpod-conmon-{A}.scope
        - - - web.service     /system.slice/web.service|/runtime
        - - - docker-1.scope  /system.slice/docker-1.scope
        - - - -               /
        - - - -               /|//
        - - - -               /system.slice|/
        - - - -               /.service
        - - - -               relative/päth/\u{fffd}
        ",
    );
    assert_eq!(workload("").path, "/");
}

fn components(path: &str) -> Vec<&str> {
    path.split('/').filter(|name| !name.is_empty()).collect()
}

/// Any text, and paths dense enough in meaningful names to reach every rule.
fn paths() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        "[^/]{0,80}",
        "(crio-|docker-|x:docker:|crio-conmon-|é)?[0-9a-f]{63,65}(\\.scope)?",
        "(kubepods-)?pod([0-9a-f]{32}|[0-9a-f]{8}(_[0-9a-f]{4}){3}_[0-9a-f]{12})(\\.slice)?",
        select(vec!["", "init.scope", "a.service", "b.slice", "c.mount", ".scope", "_"])
            .prop_map(String::from),
    ];
    prop_oneof![any::<String>(), vec(name, 0..9).prop_map(|names| names.join("/"))]
}

proptest! {
    #[test]
    fn a_workload_starts_at_or_above_its_cgroup(path in paths()) {
        let found = workload(&path);
        prop_assert!(path.starts_with(found.path) || found.path == "/");
        prop_assert!(components(&path).starts_with(&components(found.path)));
    }

    #[test]
    fn a_workload_is_its_own(path in paths()) {
        let found = workload(&path);
        prop_assert_eq!(workload(found.path), found);
    }

    #[test]
    fn ids_come_back_and_sub_cgroups_roll_up(
        root in select(vec!["", "/kubelet.slice", "/docker/{A}", "/x.service", "/kubepods/pod{D}/{A}/x"]),
        uid in option::of("[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
        id in "[0-9a-f]{64}",
        (prefix, runtime) in select(vec![
            ("cri-containerd", Runtime::Containerd), ("crio", Runtime::CriO),
            ("docker", Runtime::Docker), ("libpod", Runtime::Podman),
        ]),
        driver in 0..3,
        below in paths().prop_filter("no container", |path| {
            !components(path).into_iter().any(|name| container(name).is_some())
        }),
    ) {
        let uid = uid.as_deref();
        let slice = uid.map_or("a".into(), |uid| format!("kubepods-pod{}", uid.replace('-', "_")));
        let pod = uid.map_or("a".into(), |uid| format!("kubepods/pod{uid}"));
        let (path, runtime) = match driver {
            0 => (format!("{root}/{slice}.slice/{prefix}-{id}.scope"), Some(runtime)),
            1 => (format!("{root}/{pod}/{id}"), None),
            _ => (format!("{root}/{slice}.slice:{prefix}:{id}"), Some(runtime)),
        };
        let path = expand(&path);
        // A container that is in no pod itself is in that of the container around it.
        let pod_uid = uid.or(root.contains("{D}").then_some(UID)).map(Cow::Borrowed);
        let expected = Workload { path: &path, container_id: Some(&id), runtime, pod_uid, unit: None };
        prop_assert_eq!(&workload(&path), &expected);
        let below = format!("{path}/{below}");
        prop_assert_eq!(workload(&below), expected);
    }
}

#[test]
fn depth_and_length_do_not_matter() {
    for path in ["/a".repeat(4096), "/".repeat(1 << 20), "é".repeat(4096)] {
        assert_eq!(components(workload(&path).path), components(&path));
    }
}
