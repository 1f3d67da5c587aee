//! TCP options in what arrives and in what is sent (RFC 9293 §3.1, §3.2).

use super::script::Script;
use crate::{
    config::Config,
    packet::{Meta, Packet},
    wire::tcp,
};

/// A segment from the peer with these bytes as its options.
fn recv_raw(s: &mut Script, text: &str, options: &[u8]) {
    let plain = s.packet(text).to_vec();
    let mut bytes = plain[..40].to_vec();
    bytes.extend(options);
    bytes.resize(40 + options.len().next_multiple_of(4), 0);
    let header_len = bytes.len() - 20;
    bytes[32] = (header_len as u8 / 4) << 4;
    let plain_header = usize::from(plain[32] >> 4) * 4;
    bytes.extend(&plain[20 + plain_header..]);
    let total = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    for at in [10, 36] {
        bytes[at..at + 2].fill(0);
    }
    let header = crate::checksum::sum(&bytes[..20]).finish();
    bytes[10..12].copy_from_slice(&header.to_be_bytes());
    let pseudo = crate::wire::ip::pseudo_sum(s.peer.ip(), s.local.ip(), 6, bytes.len() as u32 - 20);
    let check = pseudo.combine(crate::checksum::sum(&bytes[20..])).finish();
    bytes[36..38].copy_from_slice(&check.to_be_bytes());
    s.recv_packet(Packet::received(bytes.into(), Meta::default()));
    let _ = tcp::Flags::NONE;
}

/// Option areas that an attacker may send: each with what of them is understood by us, who look
/// for nothing but the end of it.
const HOSTILE: [&[u8]; 16] = [
    &[2],
    &[2, 0, 5, 0xb4],
    &[2, 1, 5, 0xb4],
    &[2, 3, 5, 0xb4],
    &[2, 255, 5, 0xb4],
    &[8, 10, 0, 0],
    &[5, 2, 1, 1],
    &[5, 11, 0, 0, 0, 1, 0, 0, 0, 2, 9],
    &[5, 10, 0, 0, 0, 9, 0, 0, 0, 1],
    &[1, 1, 1, 2],
    &[1, 1, 1, 254],
    &[0, 2, 4, 0, 1],
    &[254, 4, 1, 2],
    &[99, 2, 99, 2],
    &[3, 3, 255, 0],
    &[30, 40, 1, 2],
];

#[test]
fn m1_malformed_options_harm_nothing_on_a_connection() {
    let mut s = Script::accepted(Config::default());
    let mut next = 1;
    for options in HOSTILE {
        recv_raw(
            &mut s,
            &format!("P. {next}:{}(10) ack 1 win 65535", next + 10),
            options,
        );
        next += 10;
        s.sent(&format!(". 1:1(0) ack {next}"));
    }
    assert_eq!(s.read().unwrap().len(), HOSTILE.len() * 10);
}

#[test]
fn m1_malformed_options_on_a_syn_are_as_if_absent() {
    for options in HOSTILE {
        let mut s = Script::listening(Config::default(), 16);
        recv_raw(&mut s, "S 0:0(0) win 65535 <>", options);
        s.sent("S. 0:0(0) ack 1");
        s.recv(". 1:1(0) ack 1 win 65535");
        s.accept();
        assert!(s.info().snd_mss >= 36);
    }
}

#[test]
fn m2_mss_scale_and_sack_permitted_count_on_a_syn_only() {
    let mut s = Script::accepted(Config::default());
    s.recv("P. 1:11(10) ack 1 win 1000 <mss 100,sackOK,wscale 7>");
    s.drain();
    assert_eq!(
        (s.info().snd_mss, s.info().snd_wnd, s.info().snd_shift),
        (1000, 1000, 0)
    );
}

#[test]
fn must65_mss_is_sent_on_a_syn_only() {
    let mut s = Script::connecting(Config::default());
    s.sent("S 0:0(0) <mss 1460,sackOK,TS val 0 ecr 0,wscale 7>");
    s.recv("S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,TS val 9 ecr 0,wscale 7>");
    s.sent(". 1:1(0) ack 1 <TS val 0 ecr 9>");
    s.write(0, 10);
    s.sent("P. 1:11(10) ack 1 <TS val 0 ecr 9>");
}

#[test]
fn must64_options_need_not_be_aligned() {
    let mut s = Script::listening(Config::default(), 16);
    recv_raw(
        &mut s,
        "S 0:0(0) win 65535 <>",
        &[1, 2, 4, 3, 0xe8, 1, 1, 4, 2],
    );
    s.sent("S. 0:0(0) ack 1 <mss 1460,sackOK>");
    s.recv(". 1:1(0) ack 1 win 65535");
    s.accept();
    assert_eq!(s.info().snd_mss, 1000);
}

#[test]
fn m3_a_shift_of_more_than_fourteen_is_taken_as_fourteen() {
    for shift in [14, 15, 31, 32, 255] {
        let options = format!("mss 1000,sackOK,wscale {shift}");
        let mut s = Script::accepted_with(Config::default(), &options, 65_535);
        s.recv(". 1:1(0) ack 1 win 1");
        assert_eq!((s.info().snd_shift, s.info().snd_wnd), (14, 16_384));
        s.write(0, 100_000);
        let sent: usize = s.drain().iter().map(|sent| sent.payload.len()).sum();
        assert!(sent <= 16_384);
    }
}

#[test]
fn each_option_can_be_switched_off() {
    let mut config = Config::default();
    config.sack(false).timestamps(false).window_scaling(false);
    let mut s = Script::connecting(config.clone());
    s.sent("S 0:0(0) win 65535 <mss 1460>");
    s.recv("S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,TS val 9 ecr 0,wscale 7>");
    s.sent(". 1:1(0) ack 1 win 65535 <>");
    let info = s.info();
    assert!(!info.sack && !info.timestamps && info.snd_shift == 0);
    let mut s = Script::listening(config, 16);
    s.recv("S 0:0(0) win 65535 <mss 1460,sackOK,TS val 9 ecr 0,wscale 7>");
    s.sent("S. 0:0(0) ack 1 win 65535 <mss 1460>");
}
