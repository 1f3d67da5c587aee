//! Entries that wait for a time, in lists each of which has one delay: first in, first out, and no
//! heap is needed.

use crate::time::Time;

const NIL: u32 = u32::MAX;

/// A table whose entries are also linked into `N` lists, in the order in which they are due.
#[derive(Debug)]
pub(crate) struct Fifo<T, const N: usize> {
    nodes: Vec<Option<Node<T>>>,
    free: Vec<u32>,
    lists: [(u32, u32); N],
}

#[derive(Debug)]
struct Node<T> {
    value: T,
    prev: u32,
    next: u32,
    at: Millis,
    list: u8,
}

/// A time in milliseconds, rounded up, of 48 bits: small, and enough for 8,900 years.
#[derive(Clone, Copy, Debug)]
struct Millis([u16; 3]);

impl Millis {
    fn new(at: Time) -> Self {
        let millis = at.as_nanos().div_ceil(1_000_000);
        Self([(millis >> 32) as u16, (millis >> 16) as u16, millis as u16])
    }

    fn time(self) -> Time {
        let [high, middle, low] = self.0.map(u64::from);
        Time::from_millis(high << 32 | middle << 16 | low)
    }
}

impl<T, const N: usize> Fifo<T, N> {
    pub(crate) const fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: Vec::new(),
            lists: [(NIL, NIL); N],
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Bytes held.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.nodes.capacity() * size_of::<Option<Node<T>>>()
            + self.free.capacity() * size_of::<u32>()
    }

    fn node(&self, index: u32) -> &Node<T> {
        self.nodes[index as usize]
            .as_ref()
            .expect("only live indices are linked or handed out")
    }

    fn node_mut(&mut self, index: u32) -> &mut Node<T> {
        self.nodes[index as usize]
            .as_mut()
            .expect("only live indices are linked or handed out")
    }

    pub(crate) fn get(&self, index: u32) -> &T {
        &self.node(index).value
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> &mut T {
        &mut self.node_mut(index).value
    }

    /// When the entry is due.
    pub(crate) fn due(&self, index: u32) -> Time {
        self.node(index).at.time()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let live =
            |(index, node): (usize, &'_ Option<Node<T>>)| node.as_ref().map(|_| index as u32);
        self.nodes
            .iter()
            .enumerate()
            .filter_map(live)
            .map(|index| (index, self.get(index)))
    }

    /// Appends to list `list`, none of whose entries may be due later.
    pub(crate) fn push(&mut self, list: usize, at: Time, value: T) -> u32 {
        let node = Node {
            value,
            at: Millis::new(at),
            prev: NIL,
            next: NIL,
            list: list as u8,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.nodes[index as usize] = Some(node);
                index
            }
            None => {
                self.nodes.push(Some(node));
                (self.nodes.len() - 1) as u32
            }
        };
        self.link(index, list);
        index
    }

    /// Moves an entry to the end of a list.
    pub(crate) fn move_to(&mut self, index: u32, list: usize, at: Time) {
        self.unlink(index);
        self.node_mut(index).at = Millis::new(at);
        self.link(index, list);
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        self.unlink(index);
        let node = self.nodes[index as usize].take()?;
        self.free.push(index);
        if self.free.len() == self.nodes.len() {
            // The last one is gone: memory goes back.
            (self.nodes, self.free) = (Vec::new(), Vec::new());
        }
        Some(node.value)
    }

    /// An entry that is due.
    pub(crate) fn first_due(&self, now: Time) -> Option<u32> {
        self.heads().find(|head| self.due(*head) <= now)
    }

    /// When the next entry is due.
    pub(crate) fn next(&self) -> Option<Time> {
        self.heads().map(|head| self.due(head)).min()
    }

    /// The first of a list, which has waited longest.
    pub(crate) fn first(&self, list: usize) -> Option<u32> {
        (self.lists[list].0 != NIL).then_some(self.lists[list].0)
    }

    fn heads(&self) -> impl Iterator<Item = u32> {
        self.lists
            .iter()
            .map(|(head, _)| *head)
            .filter(|head| *head != NIL)
    }

    fn link(&mut self, index: u32, list: usize) {
        let tail = std::mem::replace(&mut self.lists[list].1, index);
        let node = self.node_mut(index);
        (node.prev, node.next, node.list) = (tail, NIL, list as u8);
        if tail == NIL {
            self.lists[list].0 = index;
        } else {
            self.node_mut(tail).next = index;
        }
    }

    fn unlink(&mut self, index: u32) {
        let Node {
            prev, next, list, ..
        } = *self.node(index);
        let list = usize::from(list);
        if prev == NIL {
            self.lists[list].0 = next;
        } else {
            self.node_mut(prev).next = next;
        }
        if next == NIL {
            self.lists[list].1 = prev;
        } else {
            self.node_mut(next).prev = prev;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_due_in_order_across_lists() {
        let mut fifo = Fifo::<&str, 2>::new();
        let at = Time::from_millis;
        let a = fifo.push(0, at(10), "a");
        let b = fifo.push(0, at(20), "b");
        let c = fifo.push(1, at(15), "c");
        assert_eq!(fifo.next(), Some(at(10)));
        assert_eq!(fifo.first_due(at(9)), None);
        fifo.move_to(a, 1, at(30));
        assert_eq!(fifo.next(), Some(at(15)));
        assert_eq!(fifo.remove(c), Some("c"));
        assert_eq!(fifo.first_due(at(25)), Some(b));
        assert_eq!(
            (fifo.remove(b), fifo.remove(a), fifo.len(), fifo.next()),
            (Some("b"), Some("a"), 0, None)
        );
    }
}
