// The app: choose a model, talk to it.

import SwiftUI

@main
struct HotsetSampleApp: App {
    @StateObject private var library = Library()

    var body: some Scene {
        WindowGroup {
            NavigationStack {
                if let chat = library.chat {
                    ChatView(chat: chat, leave: library.close)
                } else {
                    ModelsView(library: library)
                }
            }
        }
    }
}
