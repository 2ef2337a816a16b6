//! Traffic is never touched: whatever a packet is, it passes, and bytes arrive as they were sent.

use std::collections::BTreeSet;

use podmeter::{
    probes::{Plan, Probes},
    sys,
};
use podmeter_tests::{cgroup::Cgroup, random::Random};

use crate::http::lab::{CLIENT, Lab, PEER, SERVER};

/// How many packets each program sees.
const PACKETS: usize = 20_000;
/// The length of an Ethernet header: what BPF_PROG_TEST_RUN wants, and takes off.
const ETHERNET: usize = 14;

const HEADS: [&[u8]; 12] = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /a/very/long/path/9f86d081884c7d659a2feaa0c55ad015/with/1/2/3/4/5/6/7/8?and=a&query=too HTTP/1.1\r\n",
    b"POST /upload HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    b"OPTIONS * HTTP/1.1\r\n\r\n",
    b"CONNECT example.com:443 HTTP/1.1\r\n\r\n",
    b"GET http://example.com/users/7 HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"DELETE ",
];

/// A frame that begins like TCP over Ethernet, with options that are cut off or say nonsense, and a payload that begins like
/// HTTP; cut anywhere.
fn plausible(random: &mut Random) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET];
    let is_v4 = random.below(2) == 0;
    frame[12..14].copy_from_slice(if is_v4 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
    // Few words of options mostly; sometimes a length that is too short, or longer than what is there.
    let options =
        |random: &mut Random| if random.below(4) == 0 { random.below(16) } else { 5 + random.below(3) };
    let protocol = if random.below(10) == 0 { random.word() as u8 } else { 6 };
    if is_v4 {
        let words = options(random);
        let mut header = vec![0; 4 * words.max(5)];
        random.fill(&mut header);
        header[0] = 0x40 | words as u8;
        header[9] = protocol;
        frame.extend(header);
    } else {
        let mut header = vec![0; 40];
        random.fill(&mut header);
        header[0] = 0x60;
        header[6] = protocol;
        frame.extend(header);
    }
    let words = options(random);
    let mut tcp = vec![0; 4 * words.max(5)];
    random.fill(&mut tcp);
    tcp[12] = (words as u8) << 4;
    frame.extend(tcp);
    frame.extend(random.pick(&HEADS));
    let mut rest = vec![0; random.below(1400)];
    random.fill(&mut rest);
    frame.extend(rest);
    let cut = if random.below(3) == 0 { ETHERNET + 20 + random.below(frame.len()) } else { frame.len() };
    frame.truncate(cut.min(1600));
    frame
}

/// Loads the packet programs, and attaches them to a cgroup in which nobody is.
fn programs(cgroup: &Cgroup) -> Probes {
    let root = cgroup.v2();
    let plan = Plan {
        btf: "/sys/kernel/btf/vmlinux".as_ref(),
        cgroup: Some(&root),
        signals: &BTreeSet::from(["cgroup", "http"]),
        globals: &[],
        sizes: &[],
        debug: false,
    };
    let mut probes = Probes::load(&plan);
    probes.attach(&plan);
    for program in ["http_ingress", "http_egress"] {
        assert!(probes.is_attached(program), "{:?}", probes.verdicts());
    }
    probes
}

#[test]
fn every_packet_passes() {
    let cgroup = Cgroup::new("packets");
    let probes = programs(&cgroup);
    let mut random = Random::new(42);
    let mut refused = 0;
    for number in 0..PACKETS {
        let packet = if number % 2 == 0 {
            plausible(&mut random)
        } else {
            let mut packet = vec![0; ETHERNET + random.below(1600 - ETHERNET + 1)];
            random.fill(&mut packet);
            packet
        };
        for program in ["http_ingress", "http_egress"] {
            let verdict = probes.with_fd(program, |fd| Ok(sys::run_on_packet(fd, &packet)));
            match verdict.expect("loaded") {
                Ok(verdict) => assert_eq!(verdict, 1, "{program} on packet {number}: {packet:02x?}"),
                // The kernel itself runs nothing on a frame without room for a header of IP, whichever the frame says it is.
                Err(error) if packet.len() < ETHERNET + 40 => {
                    refused += 1;
                    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{error}");
                }
                Err(error) => panic!("{program} on packet {number}, {} bytes: {error}", packet.len()),
            }
        }
    }
    println!("{PACKETS} packets, {refused} runs refused");
    assert!(refused < PACKETS / 20, "nearly all were run");
}

/// How much goes through a probed connection.
const GIBIBYTE: u64 = 1 << 30;

/// What the two ends say of what they sent and received: how many bytes, and their sum.
fn same(sent: &str, received: &str) {
    assert_eq!(sent.trim(), received.trim(), "sent and received");
    assert!(sent.starts_with(&format!("{GIBIBYTE} ")), "{sent}");
}

#[test]
fn a_gibibyte_of_anything_arrives() {
    let lab = Lab::alone(&[]);
    let mut sink = lab.server.spawn(&[PEER, "sink", "127.0.0.1:0"]);
    let address = sink.go().line();
    let sent = lab.run(&[PEER, "pour", &address, &GIBIBYTE.to_string()]);
    same(&sent, &sink.line());
    sink.finish();
    let scrape = lab.settled(0, 0);
    assert_eq!(
        Lab::lost(&scrape, "connection_unknown"),
        2,
        "it was seen, at both ends: {}",
        lab.story(&scrape)
    );
}

#[test]
fn a_gibibyte_of_http_arrives() {
    let lab = Lab::alone(&[]);
    let server = lab.serve("127.0.0.1:0");
    let mut talk = lab.talk();
    talk.say(&format!("open {}", server.v4()));
    talk.say(&format!("send GET /body/{GIBIBYTE} HTTP/1.1\\r\\n\\r\\n"));
    let received = talk.say("answer");
    talk.say("close");
    let sent = lab.curl(&[&server.url("/sum")]);
    same(&sent, received.strip_prefix("200 ").expect("a status"));
    let scrape = lab.settled(2, 2);
    assert_eq!(lab.counts(&scrape, &[("http_route", "/body/{id}")]), (1, 1), "{}", lab.story(&scrape));
    for (side, id) in [(SERVER, &lab.server_id), (CLIENT, &lab.client_id)] {
        assert!(scrape.sum(&format!("{side}_sum"), &[("id", id)]) > 0.0, "{side}");
    }
}
