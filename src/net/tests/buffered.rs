//! Reading from the stack's own buffer: `AsyncBufRead`.

use std::{io::ErrorKind, pin::Pin, task::Poll};

use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

use super::{connected, pair, settle};

#[tokio::test(start_paused = true)]
async fn what_is_shown_is_the_stacks_own_memory_and_stays_until_it_is_consumed() {
    let (server, client) = pair();
    let (a, b) = connected(&server, &client).await;
    let mut a = a.into_split().0;
    let sent: Bytes = (0..50_000_u32).map(|i| i.to_be_bytes()[3]).collect();
    b.write_chunk(sent.clone()).await.unwrap();
    settle().await;
    let (shown, len) = {
        let shown = a.fill_buf().await.unwrap();
        assert_eq!(shown, &sent[..shown.len()]);
        (shown.as_ptr(), shown.len())
    };
    assert_eq!(a.as_ref().unread(), sent.len(), "nothing was consumed");
    a.consume(100);
    let mut copied = [0; 50];
    a.read_exact(&mut copied).await.unwrap();
    assert_eq!(copied, sent[100..150]);
    // The same bytes again, by the door that takes them out: no copy was made in between.
    let chunk = a.read_chunk(usize::MAX).await.unwrap().unwrap();
    assert_eq!(chunk.len(), len - 150);
    assert_eq!(chunk.as_ptr(), shown.wrapping_add(150));
}

#[tokio::test(start_paused = true)]
async fn consume_takes_no_more_than_was_shown() {
    let (server, client) = pair();
    let (a, mut b) = connected(&server, &client).await;
    let mut a = a.into_split().0;
    b.write_all(b"first").await.unwrap();
    settle().await;
    a.consume(3);
    assert_eq!(
        a.fill_buf().await.unwrap(),
        b"first",
        "nothing had been shown"
    );
    b.write_all(b"second").await.unwrap();
    settle().await;
    a.consume(1000);
    a.consume(1);
    assert_eq!(a.fill_buf().await.unwrap(), b"second");
}

#[tokio::test(start_paused = true)]
async fn lines_are_read_from_all_that_can_be_read_from() {
    let (server, client) = pair();
    let (mut a, mut b) = connected(&server, &client).await;
    b.write_all(b"one\ntwo\nthree\nfour").await.unwrap();
    b.shutdown().await.unwrap();
    let mut line = String::new();
    // As in many a program, whose `split` would be another one if the stream could do this itself.
    a.split().0.read_line(&mut line).await.unwrap();
    let (mut reader, _writer) = a.into_split();
    while reader.read_line(&mut line).await.unwrap() > 0 {}
    assert_eq!(line, "one\ntwo\nthree\nfour");
    assert_eq!(reader.fill_buf().await.unwrap(), b"", "the end lasts");
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_the_buffer_is_woken_and_told_of_a_reset_once() {
    let (server, client) = pair();
    let (a, mut b) = connected(&server, &client).await;
    let mut a = a.into_split().0;
    let reader = tokio::spawn(async move {
        let first = a.fill_buf().await.map(<[u8]>::to_vec);
        a.consume(2);
        let error = a.fill_buf().await.map(<[u8]>::to_vec);
        let end = a.fill_buf().await.map(<[u8]>::to_vec);
        (first, error, end)
    });
    settle().await;
    b.write_all(b"hi").await.unwrap();
    settle().await;
    b.set_zero_linger().unwrap();
    drop(b);
    let (first, error, end) = reader.await.unwrap();
    assert_eq!(first.unwrap(), b"hi");
    assert_eq!(error.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(end.unwrap(), b"");
}

#[tokio::test(start_paused = true)]
async fn filling_takes_part_in_the_cooperative_budget() {
    let (server, client) = pair();
    let (a, mut b) = connected(&server, &client).await;
    let mut a = a.into_split().0;
    b.write_all(b"enough for all").await.unwrap();
    settle().await;
    let task = tokio::spawn(std::future::poll_fn(move |cx| {
        let ready = (0..1000).take_while(|_| Pin::new(&mut a).poll_fill_buf(cx).is_ready());
        Poll::Ready(ready.count())
    }));
    assert_eq!(task.await.unwrap(), 128);
}
