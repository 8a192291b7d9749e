use super::super::layout::Hierarchy;
use super::*;

/// A machine whose groups are the files of a fixture.
fn recorded(version: &str) -> Layout {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cgroups").join(version);
    let separate = |name: &str, controllers: &[&str]| Hierarchy {
        mount: root.join(name),
        controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
        unified: false,
    };
    Layout::of(match version {
        "v2" => vec![Hierarchy { mount: root, controllers: Vec::new(), unified: true }],
        _ => vec![
            separate("cpu", &["cpu"]),
            separate("cpuacct", &["cpuacct"]),
            separate("memory", &["memory"]),
            separate("blkio", &["blkio"]),
            separate("pids", &["pids"]),
        ],
    })
}

fn read(layout: &Layout, cgroup: &str) -> Result<Usage, CgroupError> {
    Reader::new(layout, cgroup)?.usage(Detail::All)
}

#[test]
fn cgroup_v1() {
    let layout = recorded("v1");
    let usage = read(&layout, "/pod").unwrap();
    let cpu = usage.cpu.unwrap();
    assert_eq!((cpu.total_nanos, cpu.user_nanos, cpu.system_nanos), (1_234_567_890, 900_000_000, 330_000_000));
    assert_eq!((cpu.shares, cpu.quota, cpu.period), (Some(256), Some(50_000), Some(100_000)));
    assert_eq!((cpu.periods, cpu.throttled_periods, cpu.throttled_nanos), (410, 17, 912_000_000));
    let memory = usage.memory.unwrap();
    assert_eq!((memory.usage, memory.working_set), (6_000_640, 6_000_640 - 1_081_344));
    assert_eq!((memory.rss, memory.cache, memory.swap, memory.mapped_file), (2_162_688, 3_244_032, 8192, 540_672));
    assert_eq!((memory.limit, memory.swap_limit, memory.reservation), (Some(64 << 20), Some(128 << 20), None));
    assert_eq!((memory.max_usage, memory.fail_count, memory.kernel), (Some(7_340_032), Some(3), Some(593_920)));
    assert_eq!((memory.page_faults, memory.major_page_faults, memory.oom_kills), (2211, 4, 1));
    let io: Vec<_> = usage.io.unwrap().into_values().collect();
    assert_eq!(io, [DeviceIo { read_bytes: 1_048_576, write_bytes: 4096, reads: 31, writes: 1 }]);
    assert_eq!(usage.pids, Some(Pids { current: 5, max: Some(1000) }));
    assert_eq!(usage.pressure, None, "cgroup v1 has none");
    assert!(read(&layout, "/gone").unwrap_err().is_not_found());
}

#[test]
fn cgroup_v2() {
    let layout = recorded("v2");
    let usage = read(&layout, "/pod").unwrap();
    let cpu = usage.cpu.unwrap();
    assert_eq!((cpu.total_nanos, cpu.user_nanos, cpu.system_nanos), (2_500_123_000, 2_000_100_000, 500_023_000));
    assert_eq!((cpu.quota, cpu.period), (None, Some(100_000)));
    assert_eq!(cpu.shares, Some(shares(59)));
    assert_eq!((cpu.periods, cpu.throttled_periods, cpu.throttled_nanos), (12, 2, 44_000_000));
    let memory = usage.memory.unwrap();
    assert_eq!((memory.usage, memory.working_set), (10_485_760, 10_485_760 - 2_097_152));
    assert_eq!((memory.rss, memory.cache, memory.swap, memory.mapped_file), (4_194_304, 5_242_880, 4096, 1_048_576));
    assert_eq!((memory.limit, memory.swap_limit, memory.reservation), (Some(67_108_864), Some(0), Some(0)));
    assert_eq!((memory.max_usage, memory.fail_count, memory.kernel), (Some(12_582_912), Some(7), Some(802_816)));
    assert_eq!((memory.page_faults, memory.major_page_faults, memory.oom_kills), (3333, 21, 2));
    let io: Vec<_> = usage.io.unwrap().into_values().collect();
    assert_eq!(io, [DeviceIo { read_bytes: 8192, write_bytes: 16_384, reads: 2, writes: 4 }]);
    assert_eq!(usage.pids, Some(Pids { current: 3, max: None }));
    let pressure = usage.pressure.unwrap();
    assert_eq!((pressure.cpu.0.total, pressure.cpu.1.total), (123_456, 23_456));
    assert!((pressure.memory.0.avg10 - 1.5).abs() < 1e-9 && (pressure.io.1.avg300 - 0.25).abs() < 1e-9);
    assert!(read(&layout, "/gone").unwrap_err().is_not_found());
}

#[test]
fn less_is_the_same_where_it_is_there() {
    for version in ["v1", "v2"] {
        let layout = recorded(version);
        let (all, less) = (read(&layout, "/pod").unwrap(), Reader::new(&layout, "/pod").unwrap().usage(Detail::CpuAndMemory).unwrap());
        assert_eq!(all.cpu.unwrap().total_nanos, less.cpu.unwrap().total_nanos);
        let pick = |memory: Option<Memory>| memory.map(|m| (m.usage, m.working_set, m.rss, m.swap, m.limit, m.swap_limit, m.page_faults));
        assert_eq!(pick(all.memory), pick(less.memory), "{version}");
        assert_eq!((less.io, less.pids, less.pressure), (None, None, None));
    }
}

/// Its memory is the machine's: the root group has no `memory.current`.
#[test]
fn the_root_of_cgroup_v2() {
    let layout = recorded("v2");
    let meminfo = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cgroups/meminfo");
    let reader = Reader { meminfo: &meminfo, ..Reader::new(&layout, "/").unwrap() };
    let memory = reader.memory(Detail::All).unwrap().unwrap();
    assert_eq!(memory.usage, (8_000_000 - 3_000_000) * 1024);
    assert_eq!(memory.working_set, (8_000_000 - 3_000_000 - 1_000_000) * 1024);
    assert_eq!((memory.rss, memory.swap, memory.limit), (900_000 * 1024, 100_000 * 1024, None));
}

#[test]
fn this_machine() {
    let usage = usage("/", Detail::All).unwrap();
    assert!(usage.cpu.unwrap().total_nanos > 1_000_000_000);
    let memory = usage.memory.unwrap();
    assert!(memory.usage > 1 << 20 && memory.working_set <= memory.usage);
}

#[test]
fn shares_invert_the_weight() {
    for value in [2, 102, 512, 1024, 4096, 262_144] {
        assert_eq!(super::super::weight(shares(super::super::weight(value))), super::super::weight(value), "{value}");
    }
    assert_eq!([1, 100, 10_000].map(shares), [2, 1024, 262_144].map(|s| shares(super::super::weight(s))));
}
