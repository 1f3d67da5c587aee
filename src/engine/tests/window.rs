//! The window that we advertise, and what comes beyond it (RFC 9293 §3.8.6.2.2).

use super::{pair::pattern, script::Script};
use crate::{config::Config, testing::Rng};

/// A connection with a receive buffer of `bytes`.
fn with_buffer(bytes: usize) -> Script {
    let mut config = Config::default();
    config.recv_buffer(bytes).recv_buffer_max(bytes);
    Script::accepted(config)
}

#[test]
fn a_fixed_buffer_beyond_what_buffers_grow_to_raises_the_scale_offered() {
    const FIXED: usize = 64 << 20;
    let mut config = Config::default();
    config.options(crate::config::SocketOptions {
        recv_buffer: Some(FIXED),
        ..Default::default()
    });
    let mut client = Script::new(config.clone());
    client.connect();
    client.sent("S 0:0(0) win 65535 <mss 1460,sackOK,TS val 0 ecr 0,wscale 11>");
    client.recv("S. 0:0(0) ack 1 win 65535 <mss 1000,sackOK,nop,wscale 7>");
    client.sent(&format!(". 1:1(0) ack 1 win {}", FIXED >> 11));
    let mut server = Script::listening(config, 16);
    server.recv("S 0:0(0) win 65535 <mss 1000,sackOK,nop,wscale 7>");
    server.sent("S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,nop,wscale 11>");
    server.recv(". 1:1(0) ack 1 win 65535");
    server.accept();
    server.recv("P. 1:1001(1000) ack 1 win 65535");
    server.sent(&format!(". 1:1(0) ack 1001 win {}", (FIXED - 1000) >> 11));
}

/// Sends segments of 1000 bytes until our window is closed.
fn fill(s: &mut Script) -> u32 {
    let mut next = 1;
    while s.info().rcv_wnd > 0 {
        let len = s.info().rcv_wnd.min(1000);
        s.recv(&format!(". {next}:{}({len}) ack 1 win 65535", next + len));
        next += len;
    }
    s.wait_ms(1000);
    next
}

#[test]
fn the_right_edge_never_moves_left() {
    for shift in [0, 7] {
        let mut config = Config::default();
        config.recv_buffer(20_000).recv_buffer_max(65_535 << shift);
        edge_moves_right(Script::accepted(config), shift);
    }
}

fn edge_moves_right(mut s: Script, shift: u32) {
    let mut rng = Rng::new(7);
    let (mut next, mut edge) = (1_u32, 0_u32);
    for _ in 0..3000 {
        let room = s.info().rcv_wnd as usize;
        let len = rng.below(1400).min(room) as u32;
        if len > 0 {
            s.recv(&format!(". {next}:{}({len}) ack 1 win 65535", next + len));
            next += len;
        }
        if rng.below(3) == 0 {
            let mut some = vec![0; rng.below(6000) + 1];
            let _ = s.engine.read(s.id(), &mut some, s.now);
        }
        s.wait_ms(rng.below(60) as u64);
        for sent in s.drain() {
            let ack = sent
                .header
                .ack
                .unwrap()
                .since(crate::seq::SeqNum::new(s.peer_isn));
            let right = ack + (u32::from(sent.header.wnd) << shift);
            assert!(right >= edge, "the edge moved from {edge} to {right}");
            edge = right;
        }
    }
    assert!(next > 200_000, "only {next} bytes");
}

#[test]
fn the_window_holds_what_is_read_in_a_millisecond_however_short_the_path() {
    let mut s = Script::accepted(Config::default());
    let mut next = 1;
    for _ in 0..500 {
        s.recv(&format!(
            ". {next}:{}(14480) ack 1 win 65535",
            next + 14_480
        ));
        next += 14_480;
        assert_eq!(s.read().unwrap().len(), 14_480);
        s.wait(std::time::Duration::from_micros(20));
        s.drain();
    }
    // 724 KB a millisecond, while in a round trip next to nothing is read.
    let window = s.info().rcv_wnd;
    assert!(window > 2 * 724_000, "{window}");
}

#[test]
fn single_bytes_do_not_keep_a_scaled_window_open() {
    let mut config = Config::default();
    config.recv_buffer(4096);
    let mut s = Script::accepted(config);
    let mut next = 1;
    while s.info().rcv_wnd > 0 {
        s.recv(&format!(". {next}:{}(1) ack 1 win 65535", next + 1));
        next += 1;
        assert!(next < 4096 * 5 / 4, "the window stays open");
    }
    s.drain();
    s.recv(&format!(". {next}:{}(1) ack 1 win 65535", next + 1));
    s.sent(&format!(". 1:1(0) ack {next} win 0"));
}

#[test]
fn s12_a_reader_that_takes_single_bytes_moves_the_edge_in_steps_of_a_segment() {
    let mut s = with_buffer(8000);
    let next = fill(&mut s);
    s.drain();
    let mut updates = Vec::new();
    for _ in 1..next {
        let mut byte = [0];
        assert_eq!(s.engine.read(s.id(), &mut byte, s.now).unwrap(), 1);
        updates.extend(s.drain().iter().map(|sent| sent.header.wnd));
    }
    let steps: Vec<_> = updates.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(updates[0] >= 1000, "{updates:?}");
    assert!(steps.iter().all(|step| *step >= 1000), "{updates:?}");
    assert!(*updates.last().unwrap() >= 4000, "{updates:?}");
}

#[test]
fn must39_whoever_probes_sees_no_window_smaller_than_a_segment() {
    let mut s = with_buffer(8000);
    let next = fill(&mut s);
    s.drain();
    let mut shown = Vec::new();
    for _ in 0..30 {
        assert_eq!(s.engine.read(s.id(), &mut [0; 100], s.now).unwrap(), 100);
        s.drain();
        s.wait_ms(600);
        s.recv(&format!(". {0}:{0}(0) ack 1 win 65535", next - 1));
        shown.push(s.next().expect("an answer").header.wnd);
    }
    assert_eq!(shown[0], 0);
    let steps: Vec<_> = shown.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(
        steps.iter().all(|step| *step == 0 || *step >= 1000),
        "{shown:?}"
    );
    assert!(shown[29] >= 2000, "{shown:?}");
}

#[test]
fn a_closed_window_is_reopened_by_an_update_as_soon_as_a_segment_fits() {
    let mut s = with_buffer(8000);
    let next = fill(&mut s);
    s.drain();
    let mut some = [0; 999];
    s.engine.read(s.id(), &mut some, s.now).unwrap();
    s.silence();
    s.engine.read(s.id(), &mut some[..1], s.now).unwrap();
    s.sent(&format!(". 1:1(0) ack {next} win 1000"));
}

#[test]
fn an_update_goes_out_when_the_window_doubles_and_not_for_each_read() {
    let mut s = with_buffer(60_000);
    let mut next = 1;
    for _ in 0..45 {
        s.recv(&format!(". {next}:{}(1000) ack 1 win 65535", next + 1000));
        next += 1000;
    }
    s.wait_ms(100);
    s.drain();
    assert_eq!(s.info().rcv_wnd, 15_000);
    let mut some = [0; 1000];
    for _ in 0..14 {
        s.engine.read(s.id(), &mut some, s.now).unwrap();
    }
    s.silence();
    s.engine.read(s.id(), &mut some, s.now).unwrap();
    s.sent(". 1:1(0) ack 45001 win 30000");
}

#[test]
fn s13_bytes_beyond_the_edge_are_not_taken() {
    let mut s = with_buffer(8000);
    s.recv(". 7501:8501(1000) ack 1 win 65535");
    s.sent(". 1:1(0) ack 1 win 8000 <sack 7501:8001>");
    s.recv(". 8001:9001(1000) ack 1 win 65535");
    s.sent(". 1:1(0) ack 1 win 8000");
    let mut next = 1;
    while next < 8001 {
        s.recv(&format!(". {next}:{}(1000) ack 1 win 65535", next + 1000));
        next += 1000;
    }
    s.wait_ms(100);
    s.drain();
    for _ in 0..1000 {
        s.recv(". 8001:9001(1000) ack 1 win 65535");
        s.sent(". 1:1(0) ack 8001 win 0");
    }
    assert_eq!(s.read().unwrap(), pattern(0, 8000));
}

#[test]
fn a_byte_sent_into_a_closed_window_is_answered_and_not_taken() {
    let mut s = with_buffer(8000);
    let next = fill(&mut s);
    s.drain();
    s.recv(&format!(". {next}:{}(1) ack 1 win 65535", next + 1));
    s.sent(&format!(". 1:1(0) ack {next} win 0"));
    assert_eq!(s.read().unwrap().len(), next as usize - 1);
}

#[test]
fn must66_acknowledgements_urgent_pointers_and_resets_count_at_a_closed_window() {
    let mut s = with_buffer(8000);
    let next = fill(&mut s);
    s.drain();
    s.write(0, 10);
    s.sent(&format!("P. 1:11(10) ack {next} win 0"));
    s.recv(&format!("U. {next}:{next}(0) ack 11 win 65535 urg 5"));
    assert_eq!(s.info().acked, 10);
    assert_eq!(s.info().urgent, Some(u64::from(next) - 1 + 5));
    // There is no room for its text, and what else it says counts.
    s.write(10, 10);
    s.sent(&format!("P. 11:21(10) ack {next} win 0"));
    let end = next + 10;
    s.recv(&format!("UP. {next}:{end}(10) ack 21 win 65535 urg 9"));
    assert_eq!(s.info().acked, 20);
    assert_eq!(s.info().urgent, Some(u64::from(next) - 1 + 9));
    s.sent(&format!(". 21:21(0) ack {next} win 0"));
    // A reset may have text as well, for which there is no room either.
    s.recv(&format!("R. {next}:{end}(10) ack 21 win 0"));
    assert_eq!(s.state(), Some(crate::info::State::Closed));
}

#[test]
fn an_acknowledgement_from_a_peer_that_has_filled_our_window_counts() {
    let mut s = with_buffer(8000);
    s.write(0, 100);
    s.sent("P. 1:101(100) ack 1");
    // The first segment was lost; the peer's next number is our right edge.
    s.recv(". 1001:8001(7000) ack 1 win 65535");
    s.drain();
    s.recv(". 8001:8001(0) ack 101 win 65535");
    s.silence();
    assert_eq!(s.info().acked, 100);
}

#[test]
fn an_acknowledgement_that_data_has_overtaken_counts() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 100);
    s.sent("P. 1:101(100) ack 1");
    s.set(|options| options.quickack = false);
    s.recv("P. 1:11(10) ack 1 win 65535");
    s.recv(". 1:1(0) ack 101 win 65535");
    s.silence();
    assert_eq!(s.info().acked, 100);
}

#[test]
fn the_buffer_grows_with_a_reader_that_keeps_up_and_not_without() {
    for reads in [true, false] {
        let mut config = Config::default();
        config.recv_buffer(32 << 10).recv_buffer_max(1 << 20);
        let mut s = Script::accepted_with(config, "mss 1000,sackOK,nop,wscale 7", 65_535);
        let mut next = 1;
        for _ in 0..50 {
            let end = next + s.info().rcv_wnd.min(200_000);
            while next < end {
                let len = (end - next).min(1000);
                s.recv(&format!(". {next}:{}({len}) ack 1 win 65535", next + len));
                next += len;
            }
            if reads {
                s.read().unwrap();
            }
            s.wait_ms(20);
        }
        let window = s.info().rcv_wnd;
        assert!(
            if reads {
                window > 200_000
            } else {
                next <= (32 << 10) * 9 / 8
            },
            "{reads}: {window} {next}"
        );
    }
}

#[test]
fn so_rcvbuf_fixes_the_window() {
    let mut config = Config::default();
    config.recv_buffer(32 << 10).recv_buffer_max(65_535);
    let mut s = Script::accepted(config);
    s.set(|options| options.recv_buffer = Some(50_000));
    s.recv("P. 1:11(10) ack 1 win 65535");
    s.sent(". 1:1(0) ack 11 win 49990");
    // A smaller buffer does not take back what was promised.
    s.set(|options| options.recv_buffer = Some(5000));
    s.recv("P. 11:21(10) ack 1 win 65535");
    s.sent(". 1:1(0) ack 21 win 49980");
}

#[test]
fn what_the_field_could_not_tell_of_the_buffer_is_not_in_the_window() {
    // Twice as much room as a window without scale can tell of.
    let mut config = Config::default();
    config.recv_buffer(131_072);
    let mut s = Script::accepted_with(config, "mss 1000", 65_535);
    s.recv("P. 1:12(11) ack 1");
    s.sent(". 1:1(0) ack 12 win 65535");
    s.recv(". 65547:65547(0) ack 1");
    s.silence();
    // A number later it is answered, and what lies there is not taken.
    s.recv(". 65548:65548(0) ack 1");
    s.sent(". 1:1(0) ack 12 win 65535");
    s.recv("P. 65547:65557(10) ack 1");
    s.sent(". 1:1(0) ack 12 win 65535");
    assert_eq!(s.counters().drop_out_of_window, 2);
    // Reading makes no room that could be told.
    assert_eq!(s.read().unwrap().len(), 11);
    s.silence();
    s.recv("P. 65537:65557(20) ack 1");
    s.sent(". 1:1(0) ack 12 win 65535");
}

#[test]
fn a_closed_window_without_scale_opens_again_when_all_was_read() {
    let mut config = Config::default();
    config.recv_buffer(131_072);
    let mut s = Script::accepted_with(config, "mss 1000", 65_535);
    let mut next = 1;
    // As much as the field can tell, twice, is all that there is room for.
    while next <= 131_000 {
        s.recv(&format!(". {next}:{}(1000) ack 1", next + 1000));
        next += 1000;
    }
    let last = s.drain().pop().unwrap();
    assert!(last.header.wnd < 2000, "{last:?}");
    assert_eq!(s.read().unwrap().len(), 131_000);
    s.sent(". 1:1(0) ack 131001 win 65535");
    s.silence();
}

#[test]
fn an_acknowledgement_lies_in_the_window_that_the_peer_has_taken_back() {
    let mut s = Script::accepted(Config::default());
    s.write(0, 4000);
    s.sent("P. 1:4001(4000) ack 1");
    s.recv("P. 1:101(100) ack 1 win 257");
    s.sent(". 258:258(0) ack 101");
    s.recv("P. 101:201(100) ack 2001 win 2000");
    s.sent(". 4001:4001(0) ack 201");
}
