use super::{
    super::tcp::{self, TcpHeader},
    *,
};

fn segment(v6: bool, payload_len: usize) -> Packet {
    let [src, dst] = if v6 {
        ["fd07::1", "fd07::2"]
    } else {
        ["10.7.0.1", "10.7.0.2"]
    };
    let ip = IpEmit {
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        protocol: 0,
        ttl: 9,
        tos: 0,
        payload_len: 0,
    };
    let header = TcpHeader {
        src_port: 4000,
        dst_port: 80,
        seq: SeqNum::new(0xdead_beef),
        ..TcpHeader::default()
    };
    let payload = Payload::from_iter([Bytes::from(vec![7; payload_len])]);
    tcp::packet(ip, &header, payload, 0)
}

fn ip_of(packet: &Packet) -> IpHeader {
    ip::parse(packet.first(), packet.len()).unwrap()
}

/// A message of any type and content from the peer, its checksum right.
fn message(v6: bool, header: [u8; 8], payload: &[u8]) -> Packet {
    let about = segment(v6, 0);
    let payload = Payload::from_iter([Bytes::copy_from_slice(payload)]);
    answer(&ip_of(&about), header, payload, 64, 0)
}

fn parse_message(v6: bool, header: [u8; 8], payload: &[u8]) -> Result<IcmpMessage, Malformed> {
    let packet = message(v6, header, payload);
    let whole = Packet::received(packet.to_vec().into(), Meta::default());
    let parsed = parse(&packet, &ip_of(&packet));
    assert_eq!(parse(&whole, &ip_of(&whole)), parsed);
    parsed
}

fn kind_of(v6: bool, kind: u8, code: u8, rest: [u8; 4]) -> Option<IcmpErrorKind> {
    let [a, b, c, d] = rest;
    let quote = segment(v6, 0).to_vec();
    match parse_message(v6, [kind, code, 0, 0, a, b, c, d], &quote).unwrap() {
        IcmpMessage::Error(error) => Some(error.kind),
        _ => None,
    }
}

#[test]
fn an_echo_comes_back_with_its_data() {
    for v6 in [false, true] {
        for len in [0, 1, 56, 1400] {
            let data = vec![0xa5; len];
            let kind = if v6 { 128 } else { 8 };
            let request = message(v6, [kind, 9, 0, 0, 1, 2, 3, 4], &data);
            let ip = ip_of(&request);
            let IcmpMessage::EchoRequest { echo, code } = parse(&request, &ip).unwrap() else {
                panic!("an echo request")
            };
            let data = request.into_payload(ip.header_len + HEADER_LEN, ip.total_len);
            let reply = echo_reply(&ip, echo, code, data, 64);
            let back = ip_of(&reply);
            assert_eq!((back.src, back.dst), (ip.dst, ip.src));
            assert_eq!(parse(&reply, &back), Ok(IcmpMessage::EchoReply(echo)));
            assert_eq!((echo.ident, echo.sequence), (0x102, 0x304));
            let its_code = reply.to_vec()[back.header_len + 1];
            assert_eq!(its_code, if v6 { 0 } else { 9 });
            let at = back.header_len + HEADER_LEN;
            assert_eq!(
                reply.into_payload(at, back.total_len).concat(),
                vec![0xa5; len]
            );
        }
    }
}

#[test]
fn reports_quote_as_much_as_is_allowed() {
    use Report::*;
    for (v6, most) in [(false, 576), (true, 1280)] {
        for (len, reason) in [
            (0, Host),
            (9, Protocol),
            (1400, Port),
            (9000, AdminProhibited),
        ] {
            let about = segment(v6, len);
            let ip = ip_of(&about);
            let packet = report(&about, &ip, reason, 64);
            let whole = packet.to_vec();
            let quoted = &whole[ip.header_len + HEADER_LEN..];
            let full = about.to_vec();
            assert_eq!(quoted, &full[..quoted.len()]);
            let expected = (ip.header_len + HEADER_LEN + full.len()).min(most);
            assert_eq!(whole.len(), expected);
            let IcmpMessage::Error(error) = parse(&packet, &ip_of(&packet)).unwrap() else {
                panic!("an error")
            };
            let kind = match reason {
                Host => IcmpErrorKind::Unreachable(Unreachable::Host),
                Protocol if v6 => IcmpErrorKind::ParameterProblem,
                Protocol => IcmpErrorKind::Unreachable(Unreachable::Protocol),
                Port => IcmpErrorKind::Unreachable(Unreachable::Port),
                AdminProhibited => IcmpErrorKind::Unreachable(Unreachable::AdminProhibited),
                Header(_) => IcmpErrorKind::ParameterProblem,
            };
            assert_eq!(error.kind, kind);
            let quote = error.quote;
            assert_eq!((quote.src, quote.dst), (ip.src, ip.dst));
            assert_eq!((quote.src_port, quote.dst_port), (4000, 80));
            assert_eq!(quote.protocol, protocol::TCP);
            assert_eq!(quote.seq, SeqNum::new(0xdead_beef));
            assert_eq!(quote.packet_len, full.len());
        }
    }
}

#[test]
fn a_parameter_problem_points_at_the_next_header_field() {
    let about = segment(true, 0);
    let packet = report(&about, &ip_of(&about), Report::Protocol, 64);
    assert_eq!(packet.head()[40..42], [4, 1]);
    assert_eq!(packet.head()[44..48], [0, 0, 0, 6]);
}

#[test]
fn every_code_has_its_meaning() {
    use IcmpErrorKind::{PacketTooBig, ParameterProblem, SourceQuench, TimeExceeded};
    use Unreachable::*;
    let v4 = [
        (0, Network),
        (1, Host),
        (2, Protocol),
        (3, Port),
        (5, SourceRoute),
        (6, Network),
        (9, AdminProhibited),
        (13, AdminProhibited),
    ];
    for (code, meaning) in v4 {
        let expected = Some(IcmpErrorKind::Unreachable(meaning));
        assert_eq!(kind_of(false, 3, code, [0; 4]), expected);
    }
    let v6 = [(0, Network), (1, AdminProhibited), (3, Host), (4, Port)];
    for (code, meaning) in v6 {
        let expected = Some(IcmpErrorKind::Unreachable(meaning));
        assert_eq!(kind_of(true, 1, code, [0; 4]), expected);
    }
    let mtu = Some(PacketTooBig { mtu: 1280 });
    assert_eq!(kind_of(false, 3, 4, [9, 9, 5, 0]), mtu);
    assert_eq!(kind_of(true, 2, 0, [0, 0, 5, 0]), mtu);
    assert_eq!(kind_of(false, 4, 0, [0; 4]), Some(SourceQuench));
    assert_eq!(kind_of(false, 11, 0, [0; 4]), Some(TimeExceeded));
    assert_eq!(kind_of(true, 3, 0, [0; 4]), Some(TimeExceeded));
    assert_eq!(kind_of(false, 12, 0, [0; 4]), Some(ParameterProblem));
    assert_eq!(kind_of(true, 4, 2, [0; 4]), Some(ParameterProblem));
    for (v6, kind) in [(false, 5), (false, 9), (true, 133), (true, 137), (true, 1)] {
        assert_eq!(kind_of(v6, kind, 99, [0; 4]), None);
    }
}

#[test]
fn eight_bytes_of_transport_are_enough_and_fewer_are_not() {
    for v6 in [false, true] {
        let kind = if v6 { 1 } else { 3 };
        let header = [kind, 0, 0, 0, 0, 0, 0, 0];
        let quote = segment(v6, 1000).to_vec();
        let least = if v6 { 48 } else { 28 };
        for len in 0..quote.len().min(200) {
            let parsed = parse_message(v6, header, &quote[..len]);
            if len < least {
                assert_eq!(parsed, Err(Malformed::IcmpQuote), "{len}");
            } else {
                assert!(matches!(parsed, Ok(IcmpMessage::Error(_))), "{len}");
            }
        }
    }
}

#[test]
fn a_quote_with_a_changed_ip_header_is_still_read() {
    let mut quote = segment(false, 100).to_vec();
    quote[8] = 0; // The TTL that ran out, and a checksum that nobody updated.
    quote[2..4].fill(0xff);
    let IcmpMessage::Error(error) =
        parse_message(false, [11, 0, 0, 0, 0, 0, 0, 0], &quote).unwrap()
    else {
        panic!("an error")
    };
    assert_eq!(error.quote.packet_len, 65_535);
    // A later fragment has no ports, and IPv6 inside of ICMP for IPv4 is nonsense.
    quote[7] = 1;
    let later = parse_message(false, [11, 0, 0, 0, 0, 0, 0, 0], &quote);
    assert_eq!(later, Err(Malformed::IcmpQuote));
    let foreign = segment(true, 0).to_vec();
    let foreign = parse_message(false, [11, 0, 0, 0, 0, 0, 0, 0], &foreign);
    assert_eq!(foreign, Err(Malformed::IcmpQuote));
}

#[test]
fn a_wrong_checksum_is_refused() {
    for v6 in [false, true] {
        let kind = if v6 { 128 } else { 8 };
        let good = message(v6, [kind, 0, 0, 0, 1, 2, 3, 4], b"data!");
        let ip = ip_of(&good);
        let good = good.to_vec();
        for bit in ip.header_len * 8..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let bad = Packet::received(bad.into(), Meta::default());
            assert_eq!(parse(&bad, &ip), Err(Malformed::IcmpChecksum));
        }
        for len in 0..HEADER_LEN {
            let ip = IpHeader {
                total_len: ip.header_len + len,
                ..ip
            };
            let short = Packet::received(good.clone().into(), Meta::default());
            assert_eq!(parse(&short, &ip), Err(Malformed::IcmpTruncated));
        }
    }
}

#[test]
fn errors_are_not_reported_about_errors_groups_and_later_fragments() {
    for v6 in [false, true] {
        let about = segment(v6, 0);
        let ip = ip_of(&about);
        assert!(may_report(&about, &ip));
        let error = report(&about, &ip, Report::Port, 64);
        assert!(!may_report(&error, &ip_of(&error)));
        let number = Echo {
            ident: 0,
            sequence: 0,
        };
        let echo = echo_reply(&ip, number, 0, Payload::new(), 64);
        assert!(may_report(&echo, &ip_of(&echo)));
        let group = if v6 { "ff02::1" } else { "224.0.0.1" };
        let group = group.parse().unwrap();
        assert!(!may_report(&about, &IpHeader { dst: group, ..ip }));
        assert!(!may_report(&about, &IpHeader { src: group, ..ip }));
        let fragment = |offset| IpHeader {
            fragment: Some(ip::Fragment {
                id: 0,
                offset,
                more: true,
            }),
            ..ip
        };
        assert!(may_report(&about, &fragment(0)));
        assert!(!may_report(&about, &fragment(8)));
    }
}
