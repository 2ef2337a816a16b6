//! Plays a plan over a real connection, piece by piece, and keeps what was sent and came.

use std::fmt::Write as _;

use podmeter_tests::random::{Random, Sum};

use super::{
    super::lab::Talk,
    plan::{Cut, End, Plan},
};

/// How many pieces are shown of a connection, the half of them from its end.
const SHOWN: usize = 40;
/// The most bytes of a piece.
const PIECE: usize = 30_000;

/// What was played.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// How much each end has sent.
    pub(super) client: usize,
    pub(super) server: usize,
    /// The server has ended the connection when all was said.
    pub(super) is_closed: bool,
    /// The pieces: from where in whose stream, and how many bytes.
    pieces: Vec<(bool, usize, usize)>,
    end: String,
}

/// The two ends, each of which does what it is told.
pub(super) struct Ends {
    client: Talk,
    server: Talk,
    address: String,
}

impl Ends {
    pub(super) fn new(client: Talk, mut server: Talk) -> Self {
        let address = server.say("listen 127.0.0.1:0");
        Self { client, server, address }
    }

    /// Plays it, from the connection's beginning to its end.
    pub(super) fn play(&mut self, plan: &Plan) -> Record {
        let mut record = Record::default();
        let mut random = Random::new(plan.seed | 1 << 63);
        (0..8).for_each(|_| _ = random.word());
        self.client.say(&format!("open {}", self.address));
        self.server.say("accept");
        let stop = match plan.end {
            End::Abort { after, .. } | End::Reset { after } => after,
            _ => usize::MAX,
        };
        while record.pieces.len() < stop {
            let ready = [
                plan.client.open(record.server) - record.client,
                plan.server.open(record.client) - record.server,
            ];
            let is_client = match ready {
                [0, 0] => break,
                [_, 0] => true,
                [0, _] => false,
                _ => random.below(2) == 0,
            };
            let most = ready[usize::from(!is_client)];
            let mut size = plan.cut.size(&mut random, most);
            if record.client == 0 {
                size = size.max(plan.first).min(most);
            }
            let is_last = record.pieces.len() + 1 == stop;
            let unread = is_last && matches!(plan.end, End::Reset { .. });
            self.piece(plan, &mut record, is_client, size, unread);
        }
        let is_whole = record.client == plan.client.bytes.len() && record.server == plan.server.bytes.len();
        assert!(is_whole || record.pieces.len() == stop, "nobody can go on: {}", record.tell(plan));
        let client_first = match plan.end {
            End::Client => true,
            End::Server => false,
            End::Abort { client, .. } => client,
            // Who has bytes unread closes, and what it sends is a reset.
            End::Reset { .. } => record.pieces.last().is_some_and(|(is_client, ..)| !is_client),
        };
        record.is_closed = !client_first && is_whole;
        record.end =
            format!("{:?}: {} closes first", plan.end, if client_first { "client" } else { "server" });
        let (first, second) = if client_first {
            (&mut self.client, &mut self.server)
        } else {
            (&mut self.server, &mut self.client)
        };
        first.say("close");
        // Up to the end of the connection, so that the end has arrived.
        second.say(&format!("take {}", u64::MAX));
        second.say("close");
        record
    }

    fn piece(&mut self, plan: &Plan, record: &mut Record, is_client: bool, size: usize, unread: bool) {
        let (from, to, stream, at) = if is_client {
            (&mut self.client, &mut self.server, &plan.client, &mut record.client)
        } else {
            (&mut self.server, &mut self.client, &plan.server, &mut record.server)
        };
        let bytes = &stream.bytes[*at..*at + size];
        let mut line = String::from("hex ");
        bytes.iter().for_each(|byte| _ = write!(line, "{byte:02x}"));
        from.say(&line);
        if unread {
            to.say("peek");
        } else {
            // The next piece is a segment of its own.
            let mut sum = Sum::default();
            sum.add(bytes);
            assert_eq!(
                to.say(&format!("take {size}")),
                format!("{size} {:016x}", sum.value()),
                "as it was sent"
            );
        }
        record.pieces.push((is_client, *at, size));
        *at += size;
    }
}

impl Cut {
    /// How long the next piece is, of so many bytes that can be sent.
    fn size(self, random: &mut Random, ready: usize) -> usize {
        let most = match self {
            Self::Whole => PIECE,
            // Long bodies would take long.
            Self::Fine if ready < 600 => [2, 20, 100][random.below(3)],
            _ => [3, 30, 200, 1500, PIECE][random.below(5)],
        };
        let size = if let Self::Whole = self { most } else { 1 + random.below(most) };
        size.min(ready)
    }
}

impl Record {
    /// What was sent, piece by piece, for whoever reads why a test failed.
    pub(super) fn tell(&self, plan: &Plan) -> String {
        let mut text = String::new();
        let (first, last) = (SHOWN / 2, self.pieces.len().saturating_sub(SHOWN / 2));
        for (number, &(is_client, at, size)) in self.pieces.iter().enumerate() {
            if (first..last).contains(&number) {
                if number == first {
                    _ = writeln!(text, "    … {} pieces …", last - first);
                }
                continue;
            }
            let (name, stream) =
                if is_client { ("client", &plan.client) } else { ("    server", &plan.server) };
            let bytes = &stream.bytes[at..at + size];
            let shown = bytes[..size.min(160)].escape_ascii().to_string();
            let more = if size > 160 { " …" } else { "" };
            _ = writeln!(text, "    {name} {size}: {shown}{more}");
        }
        text + "    " + &self.end
    }
}
