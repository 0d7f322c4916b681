// A model outside of the app's folders, which the person picked, found again at the next start.

import Foundation

/// The file that the person picked last. The system lets the app find it again by a bookmark; it is not copied.
@MainActor
final class PickedModel {
    private let key = "picked model"

    /// Where it is now, if it still is.
    var url: URL? {
        guard let bookmark = UserDefaults.standard.data(forKey: key) else { return nil }
        var stale = false
        let url = try? URL(resolvingBookmarkData: bookmark, bookmarkDataIsStale: &stale)
        if let url, stale { remember(url) }
        return url
    }

    func remember(_ url: URL) {
        // A bookmark can be made only while the app may use the file.
        let granted = url.startAccessingSecurityScopedResource()
        defer { if granted { url.stopAccessingSecurityScopedResource() } }
        if let bookmark = try? url.bookmarkData() {
            UserDefaults.standard.set(bookmark, forKey: key)
        }
    }
}
