//! A run of labels as they stand in the file.

/// Labels of neighbouring nodes, 2 or 4 bytes each.
#[derive(Debug, Clone, Copy)]
pub(super) enum Labels<'a> {
    Narrow(&'a [[u8; 2]]),
    Wide(&'a [[u8; 4]]),
}

fn narrow(label: &[u8; 2]) -> u32 {
    u32::from(u16::from_le_bytes(*label))
}

fn wide(label: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*label)
}

impl<'a> Labels<'a> {
    pub const EMPTY: Self = Labels::Narrow(&[]);

    #[inline]
    pub fn new(bytes: &'a [u8], width: usize) -> Self {
        if width == 2 { Labels::Narrow(bytes.as_chunks().0) } else { Labels::Wide(bytes.as_chunks().0) }
    }

    #[inline]
    pub fn len(self) -> usize {
        match self {
            Labels::Narrow(labels) => labels.len(),
            Labels::Wide(labels) => labels.len(),
        }
    }

    /// Label of `index < len`.
    #[inline]
    pub fn get(self, index: usize) -> u32 {
        match self {
            Labels::Narrow(labels) => narrow(&labels[index]),
            Labels::Wide(labels) => wide(&labels[index]),
        }
    }

    /// Where `label` stands in labels that ascend.
    #[inline]
    pub fn find(self, label: u32) -> Option<usize> {
        match self {
            Labels::Narrow(labels) => labels.binary_search_by_key(&label, narrow).ok(),
            Labels::Wide(labels) => labels.binary_search_by_key(&label, wide).ok(),
        }
    }

    pub fn for_each(self, mut take: impl FnMut(u32)) {
        match self {
            Labels::Narrow(labels) => labels.iter().for_each(|label| take(narrow(label))),
            Labels::Wide(labels) => labels.iter().for_each(|label| take(wide(label))),
        }
    }

    /// How often `label` occurs.
    pub fn count(self, label: u32) -> u32 {
        let mut count = 0;
        self.for_each(|other| count += u32::from(other == label));
        count
    }

    /// Appends all labels.
    pub fn extend_into(self, ids: &mut Vec<i32>) {
        match self {
            Labels::Narrow(labels) => ids.extend(labels.iter().map(|label| narrow(label) as i32)),
            Labels::Wide(labels) => ids.extend(labels.iter().map(|label| wide(label) as i32)),
        }
    }

    /// Sets the bit of each label; one beyond the row (only a crafted file has such) is left out.
    pub fn set_bits(self, row: &mut [i32]) {
        self.for_each(|label| {
            if let Some(word) = row.get_mut(label as usize / 32) {
                *word |= 1 << (label % 32);
            }
        });
    }
}
